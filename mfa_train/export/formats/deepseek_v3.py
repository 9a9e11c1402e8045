"""mla as DeepSeek-V3; attention.latent_scale goes into the norms' weights.

Its router has a bias always: where ours has none it is zeros, and config.json says so under our key.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mfa_train.export.formats.base import FormatCannotSay, WithLatents
from mfa_train.export.formats.config_json import ConfigJson
from mfa_train.export.formats.mixtures import EXPERTS, mixture, require, require_shared
from mfa_train.feed_forward.names import ALWAYS_FLOAT32 as BIAS

DIMENSIONS = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
OF_EXPERTS = (
    *("n_routed_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size", "norm_topk_prob"),
    *("routed_scaling_factor", "scoring_func", "n_group", "topk_group", "bias_update_speed"),
)
ROUTER = ".mlp.gate.weight"
USUAL_SPEED = 0.001
"""DeepSeek-V3's, of which its own config.json says nothing."""


class DeepseekV3(WithLatents):
    attentions = ("mla",)
    model_types = ("deepseek_v3",)

    @property
    def loads(self) -> str:
        return "DeepseekV3ForCausalLM"

    @property
    def served_by_vllm(self) -> bool:
        return (self.attention.kv_lora_rank, self.attention.qk_rope_head_dim) == (512, 64)

    def settings(self) -> dict[str, Any]:
        self.require_no_gate()
        attention = self.attention
        if attention.qk_norm:
            raise FormatCannotSay("attention.qk_norm=true with attention=mla: DeepSeek-V3 has no such norms")
        if attention.latent_norm_eps != 1e-6:
            raise FormatCannotSay(
                f"attention.latent_norm_eps={attention.latent_norm_eps} with attention=mla: DeepSeek-V3's norms of "
                "latents have 1e-6 in transformers"
            )
        return (
            self.common()
            | self._experts()
            | {
                **{key: getattr(attention, key) for key in ("q_lora_rank", *DIMENSIONS)},
                "model_type": "deepseek_v3",
                "architectures": [self.loads],
                "num_key_value_heads": attention.num_attention_heads,
                "rope_interleave": attention.rope_interleave,
            }
        )

    def _experts(self) -> dict[str, Any]:
        moe, layers = self.feed_forward, self.model.num_hidden_layers
        if not self.has_experts:
            return {"first_k_dense_replace": layers}
        require(self, self.loads, scoring_func="sigmoid")
        require_shared(self, self.loads)
        if moe.n_routed_experts < 2 * moe.n_group:
            raise FormatCannotSay(f"{EXPERTS}n_group={moe.n_group}: {self.loads} has two experts or more in a group")
        return {
            **{key: getattr(moe, key) for key in OF_EXPERTS},
            "first_k_dense_replace": moe.first_k_dense_replace,
            "moe_layer_freq": 1,
            "topk_method": "noaux_tc",
        }

    @classmethod
    def overrides(cls, settings: ConfigJson) -> dict[str, Any]:
        keys = settings.model()
        first = 0 if settings.content.get("first_k_dense_replace") == 0 else settings.count("first_k_dense_replace", 3)
        if first < keys["model.num_hidden_layers"]:
            keys |= _mixture(settings, first)
        rank = settings.content.get("q_lora_rank")
        return {
            "attention": "mla",
            **keys,
            "attention.num_attention_heads": settings.count("num_attention_heads"),
            "attention.q_lora_rank": rank if rank is None else settings.count("q_lora_rank"),
            **{f"attention.{key}": settings.count(key) for key in DIMENSIONS},
            "attention.latent_norm_eps": 1e-6,
            "attention.rope_interleave": settings.flag("rope_interleave", True),
            "attention.qk_norm": False,
            "attention.output_gate": "none",
            **settings.rope(),
        }

    def rows_together(self, name: str) -> int:
        return 1

    def sources(self, in_model: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        sources = super().sources(in_model)
        if self.has_experts and not self.feed_forward.bias_update_speed:
            sources |= {f"{name.removesuffix('weight')}{BIAS}": name for name in sources if name.endswith(ROUTER)}
        return sources

    def there(self, name: str, weight: Tensor) -> Tensor:
        if name.endswith(BIAS) and not self.feed_forward.bias_update_speed:
            return torch.zeros(len(weight), device=weight.device)
        return super().there(name, weight)


def _mixture(settings: ConfigJson, first: int) -> dict[str, Any]:
    settings.require("scoring_func", "sigmoid")
    settings.require("topk_method", "noaux_tc")
    settings.require("moe_layer_freq", 1)
    return mixture(
        settings,
        experts="n_routed_experts",
        per_token="num_experts_per_tok",
        first=first,
        n_shared_experts=settings.count("n_shared_experts", 1),
        moe_intermediate_size=settings.count("moe_intermediate_size"),
        scoring_func="sigmoid",
        norm_topk_prob=settings.flag("norm_topk_prob", True),
        routed_scaling_factor=settings.number("routed_scaling_factor", 2.5),
        n_group=settings.count("n_group", 8),
        topk_group=settings.count("topk_group", 4),
        bias_update_speed=settings.number("bias_update_speed", USUAL_SPEED),
    )
