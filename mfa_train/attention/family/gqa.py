"""Grouped-query attention (arXiv 2305.13245): groups of query heads share a key and a value head.

Cache: k after RoPE and v, 2·num_key_value_heads·head_dim. Weights are named as in Hugging Face's Llama (and Qwen3, for
the norms of qk_norm).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from mfa_train.attention.base import Attention, AttentionConfig, Capacity, heads, require_divisor
from mfa_train.attention.rope import Positions, rotate


class GroupedQueryAttention(Attention):
    @dataclass(kw_only=True)
    class Config(AttentionConfig):
        num_key_value_heads: int
        head_dim: int

        def __post_init__(self):
            super().__post_init__()
            require_divisor(
                "num_key_value_heads", self.num_key_value_heads, "num_attention_heads", self.num_attention_heads
            )

        @property
        def heads_step(self) -> int:
            return self.num_key_value_heads

        def cache_choices(self) -> Iterator[dict[str, int]]:
            return (
                {"num_key_value_heads": kv}
                for kv in range(1, self.num_attention_heads + 1)
                if self.num_attention_heads % kv == 0
            )

    def __init__(self, hidden_size: int, config: Config):
        super().__init__(hidden_size, config, qk_head_dim=config.head_dim, v_head_dim=config.head_dim)
        self.q_proj = nn.Linear(hidden_size, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_dim, eps=1e-6) if config.qk_norm else nn.Identity()

    def query(self, x: Tensor, positions: Positions) -> Tensor:
        return rotate(self.q_norm(heads(self.q_proj(x), self.qk_head_dim)), positions)

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        k = self.k_norm(heads(self.k_proj(x), self.qk_head_dim))
        return rotate(k, positions), heads(self.v_proj(x), self.v_head_dim)

    def keys_values(self, k: Tensor, v: Tensor, *, positions: Positions) -> tuple[Tensor, Tensor]:
        return k, v

    def capacity(self) -> Capacity:
        hidden_size, keys = self.k_proj.in_features, self.k_proj.out_features
        return Capacity(self.num_attention_heads * min(self.qk_head_dim, hidden_size), min(keys, hidden_size))
