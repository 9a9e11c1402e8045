"""mha, gqa and mqa as Llama, or with norms of queries and keys as Qwen3."""

from typing import Any

from torch import Tensor

from mfa_train.export.formats.base import VLLM_HEAD_DIMS, Format, FormatCannotSay
from mfa_train.export.formats.config_json import ConfigJson

ROTATED = ("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")
"""Whose rows lie in the order in which RoPE pairs them: here side by side or in halves, there in halves."""


class Llama(Format):
    attentions = ("mha", "gqa", "mqa")
    feed_forwards = ("dense",)
    model_types = ("llama", "qwen3")

    @property
    def loads(self) -> str:
        return "Qwen3ForCausalLM" if self.attention.qk_norm else "LlamaForCausalLM"

    @property
    def served_by_vllm(self) -> bool:
        return self.attention.head_dim in VLLM_HEAD_DIMS

    def settings(self) -> dict[str, Any]:
        self.require_no_gate()
        if self.attention.qk_norm and self.model.rms_norm_eps != 1e-6:
            raise FormatCannotSay(
                f"model.rms_norm_eps={self.model.rms_norm_eps} with attention.qk_norm: Qwen3 has one eps for all "
                "norms, and those of heads have 1e-6 here"
            )
        return self.common() | {
            "model_type": "qwen3" if self.attention.qk_norm else "llama",
            "architectures": [self.loads],
            "head_dim": self.attention.head_dim,
            "num_key_value_heads": self.attention.num_key_value_heads,
            "mlp_bias": False,
        }

    @classmethod
    def overrides(cls, settings: ConfigJson) -> dict[str, Any]:
        heads = settings.count("num_attention_heads")
        of_keys = settings.count("num_key_value_heads", heads)
        name = {heads: "mha", 1: "mqa"}.get(of_keys, "gqa")
        return {
            "attention": name,
            **settings.model(),
            "attention.num_attention_heads": heads,
            **({"attention.num_key_value_heads": of_keys} if name == "gqa" else {}),
            "attention.head_dim": settings.count("head_dim", settings.count("hidden_size") // heads),
            "attention.qk_norm": settings.content["model_type"] == "qwen3",
            "attention.output_gate": "none",
            **settings.rope(),
        }

    def rows_together(self, name: str) -> int:
        return self.attention.head_dim if name.endswith(ROTATED) else 1

    def there(self, name: str, weight: Tensor) -> Tensor:
        if not self.attention.rope_interleave or not name.endswith(ROTATED):
            return weight
        by_pair = weight.unflatten(0, (-1, self.attention.head_dim // 2, 2))
        return by_pair.transpose(1, 2).flatten(0, 2).contiguous()

    def here(self, name: str, weight: Tensor) -> Tensor:
        if not self.attention.rope_interleave or not name.endswith(ROTATED):
            return weight
        in_halves = weight.unflatten(0, (-1, 2, self.attention.head_dim // 2))
        return in_halves.transpose(1, 2).flatten(0, 2).contiguous()
