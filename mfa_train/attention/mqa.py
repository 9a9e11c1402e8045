"""Multi-query attention (arXiv 1911.02150): one key and one value head for all queries. Cache: 2·head_dim."""

from dataclasses import dataclass

from mfa_train.attention.gqa import GroupedQueryAttention
from mfa_train.attention.base import AttentionConfig


class MultiQueryAttention(GroupedQueryAttention):
    @dataclass(kw_only=True)
    class Config(AttentionConfig):
        head_dim: int

        @property
        def num_key_value_heads(self) -> int:
            return 1
