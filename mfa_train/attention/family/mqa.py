"""Multi-query attention (arXiv 1911.02150): one key and one value head for all queries. Cache: 2·head_dim."""

from collections.abc import Iterator
from dataclasses import dataclass

from mfa_train.attention.base import AttentionConfig, multiples
from mfa_train.attention.family.gqa import GroupedQueryAttention


class MultiQueryAttention(GroupedQueryAttention):
    @dataclass(kw_only=True)
    class Config(AttentionConfig):
        head_dim: int

        @property
        def num_key_value_heads(self) -> int:
            return 1

        def cache_choices(self) -> Iterator[dict[str, int]]:
            return ({"head_dim": dim} for dim in multiples())
