"""Multi-head attention (arXiv 1706.03762): every head has its own key and value. Cache: 2·heads·head_dim."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mfa_train.attention.base import AttentionConfig, multiples
from mfa_train.attention.family.gqa import GroupedQueryAttention


class MultiHeadAttention(GroupedQueryAttention):
    @dataclass(kw_only=True)
    class Config(AttentionConfig):
        head_dim: int

        is_reference: ClassVar[bool] = True

        @property
        def num_key_value_heads(self) -> int:
            return self.num_attention_heads

        def choices_giving_up(self, key: str) -> Iterator[dict[str, int]]:
            """MHA with less cache is another attention: only where it is asked for."""
            if key == "head_dim":
                return ({key: dim} for dim in sorted({*multiples(largest=self.head_dim), self.head_dim}))
            if key == "num_attention_heads":
                return ({key: n} for n in range(1, self.num_attention_heads + 1))
            return self.cache_choices()
