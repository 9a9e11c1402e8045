"""mla as DeepSeek-V3 with dense layers alone; attention.latent_scale goes into the norms' weights."""

from typing import Any

from mfa_train.export.formats.base import FormatCannotSay, WithLatents
from mfa_train.export.formats.config_json import ConfigJson

DIMENSIONS = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


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
        model, attention = self.model, self.attention
        if attention.qk_norm:
            raise FormatCannotSay("attention.qk_norm=true with attention=mla: DeepSeek-V3 has no such norms")
        if attention.latent_norm_eps != 1e-6:
            raise FormatCannotSay(
                f"attention.latent_norm_eps={attention.latent_norm_eps} with attention=mla: DeepSeek-V3's norms of "
                "latents have 1e-6 in transformers"
            )
        return self.common() | {
            **{key: getattr(attention, key) for key in ("q_lora_rank", *DIMENSIONS)},
            "model_type": "deepseek_v3",
            "architectures": [self.loads],
            "num_key_value_heads": attention.num_attention_heads,
            "rope_interleave": attention.rope_interleave,
            "first_k_dense_replace": model.num_hidden_layers,  # no layer is a mixture of experts
        }

    @classmethod
    def overrides(cls, settings: ConfigJson) -> dict[str, Any]:
        keys = settings.model()
        if settings.count("first_k_dense_replace", 3) < keys["model.num_hidden_layers"]:
            raise settings.refused(
                "first_k_dense_replace", f"{keys['model.num_hidden_layers']} or more: dense layers alone, no experts"
            )
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
