"""mha, gqa and mqa with experts: with norms of queries and keys as Qwen3-MoE, else as Mixtral."""

from collections.abc import Mapping
from typing import Any

from mfa_train.export.formats.config_json import ConfigJson
from mfa_train.export.formats.llama import Llama
from mfa_train.export.formats.mixtures import SOFTMAX, mixture, require

MATRICES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
"""Mixtral's names of an expert's."""


class Qwen3Moe(Llama):
    feed_forwards = ("experts",)
    model_types = ("qwen3_moe", "mixtral")

    @property
    def loads(self) -> str:
        return "Qwen3MoeForCausalLM" if self.attention.qk_norm else "MixtralForCausalLM"

    def settings(self) -> dict[str, Any]:
        moe, sizes = self.feed_forward, super().settings()
        require(self, self.loads, **SOFTMAX, n_shared_experts=0)
        sizes |= {"architectures": [self.loads], "num_experts_per_tok": moe.num_experts_per_tok}
        if not self.attention.qk_norm:
            require(self, self.loads, norm_topk_prob=True, first_k_dense_replace=0)
            return sizes | {
                "model_type": "mixtral",
                "num_local_experts": moe.n_routed_experts,
                "intermediate_size": moe.moe_intermediate_size,
                "sliding_window": None,
            }
        return sizes | {
            "model_type": "qwen3_moe",
            "num_experts": moe.n_routed_experts,
            "moe_intermediate_size": moe.moe_intermediate_size,
            "norm_topk_prob": moe.norm_topk_prob,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(range(min(moe.first_k_dense_replace, self.model.num_hidden_layers))),
        }

    @classmethod
    def overrides(cls, settings: ConfigJson) -> dict[str, Any]:
        keys = super().overrides(settings)
        if settings.content["model_type"] == "mixtral":
            width = keys.pop("model.intermediate_size")  # of an expert: there are no dense layers
            return keys | mixture(
                settings,
                experts="num_local_experts",
                per_token="num_experts_per_tok",
                first=0,
                moe_intermediate_size=width,
                norm_topk_prob=True,
            )
        settings.require("decoder_sparse_step", 1)
        dense = settings.content.get("mlp_only_layers") or []
        if not isinstance(dense, list) or dense != list(range(len(dense))):
            raise settings.refused("mlp_only_layers", "the first layers of the model, as [0, 1]")
        return keys | {
            "attention.qk_norm": True,
            **mixture(
                settings,
                experts="num_experts" if "num_experts" in settings.content else "num_local_experts",
                per_token="num_experts_per_tok",
                first=len(dense),
                moe_intermediate_size=settings.count("moe_intermediate_size"),
                norm_topk_prob=settings.flag("norm_topk_prob", False),
            ),
        }

    def sources(self, in_model: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        sources = super().sources(in_model)
        return sources if self.attention.qk_norm else {_of_mixtral(name): ours for name, ours in sources.items()}


def _of_mixtral(name: str) -> str:
    before, in_experts, matrix = name.partition(".mlp.experts.")
    if in_experts:
        expert, kind, _ = matrix.split(".")
        return f"{before}.block_sparse_moe.experts.{expert}.{MATRICES[kind]}.weight"
    return name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
