"""mha, gqa and mqa as Llama, or with norms of queries and keys as Qwen3."""

from typing import Any

from torch import Tensor

from mfa_train.export.formats.base import VLLM_HEAD_DIMS, Format, FormatCannotSay

ROTATED = ("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")
"""Whose rows lie in the order in which RoPE pairs them: here side by side or in halves, there in halves."""


class Llama(Format):
    attentions = ("mha", "gqa", "mqa")

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
