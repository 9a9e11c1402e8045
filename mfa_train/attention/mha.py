"""Multi-head attention (arXiv 1706.03762): every head has its own key and value. Cache: 2·heads·head_dim."""

from dataclasses import dataclass

from mfa_train.attention.gqa import GroupedQueryAttention
from mfa_train.attention.base import AttentionConfig


class MultiHeadAttention(GroupedQueryAttention):
    @dataclass(kw_only=True)
    class Config(AttentionConfig):
        head_dim: int

        @property
        def num_key_value_heads(self) -> int:
            return self.num_attention_heads
