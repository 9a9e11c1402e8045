"""mla as DeepSeek-V3 with dense layers alone; attention.latent_scale goes into the norms' weights."""

from typing import Any

from mfa_train.export.formats.base import FormatCannotSay, WithLatents


class DeepseekV3(WithLatents):
    attentions = ("mla",)

    @property
    def loads(self) -> str:
        return "DeepseekV3ForCausalLM"

    @property
    def served_by_vllm(self) -> bool:
        return (self.attention.kv_lora_rank, self.attention.qk_rope_head_dim) == (512, 64)

    def settings(self) -> dict[str, Any]:
        self.require_no_gate()
        model, attention = self.model, self.attention
        if attention.qk_norm:
            raise FormatCannotSay("attention.qk_norm=true with attention=mla: DeepSeek-V3 has no such norms")
        if attention.latent_norm_eps != 1e-6:
            raise FormatCannotSay(
                f"attention.latent_norm_eps={attention.latent_norm_eps} with attention=mla: DeepSeek-V3's norms of "
                "latents have 1e-6 in transformers"
            )
        dimensions = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        return self.common() | {
            **{key: getattr(attention, key) for key in dimensions},
            "model_type": "deepseek_v3",
            "architectures": [self.loads],
            "num_key_value_heads": attention.num_attention_heads,
            "rope_interleave": attention.rope_interleave,
            "first_k_dense_replace": model.num_hidden_layers,  # no layer is a mixture of experts
        }
