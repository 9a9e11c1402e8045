"""Tensor product attention (TPA, arXiv 2501.06425, section 3).

A token's queries, keys and values over all heads are each a sum of `rank` outer products of a head factor (heads) and
a dimension factor (head_dim), divided by the rank. RoPE turns the dimension factors of q and k, which commutes with the
contraction. Cache: the factors of k (rotated) and of v, (k_rank + v_rank)·(heads + head_dim).

Weights are laid out as in the paper's code: head factors as (heads, rank), dimension factors as (rank, head_dim). With
qk_norm the contracted heads are normed without a learned scale, since they are rotated already.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mfa_train.attention.base import Attention, AttentionConfig, heads
from mfa_train.attention.kernels.decoding import decoding_attention
from mfa_train.attention.rope import Positions, rotate
from mfa_train.errors import ConfigError


class TensorProductAttention(Attention):
    @dataclass(kw_only=True)
    class Config(AttentionConfig):
        head_dim: int
        q_rank: int
        k_rank: int
        v_rank: int

        def __post_init__(self):
            super().__post_init__()
            if self.qk_norm and self.rope_scaling and self.rope_scaling.rope_type == "yarn":
                raise ConfigError(
                    "attention.qk_norm=true undoes yarn's scale of the scores in tpa, whose heads are normed "
                    "after rotation: type attention.qk_norm=false, or another rope_type"
                )

        def cache_choices(self) -> Iterator[dict[str, int]]:
            """Both ranks, the keys' the larger by one where the sum is odd."""
            return ({"k_rank": -(-total // 2), "v_rank": total // 2} for total in range(2, 2 * self.head_dim + 1))

    def __init__(self, hidden_size: int, config: Config):
        n = config.num_attention_heads
        super().__init__(hidden_size, config, qk_head_dim=config.head_dim, v_head_dim=config.head_dim)
        self.qk_norm = config.qk_norm
        self.W_A_q = nn.Linear(hidden_size, n * config.q_rank, bias=False)
        self.W_B_q = nn.Linear(hidden_size, config.q_rank * config.head_dim, bias=False)
        self.W_A_k = nn.Linear(hidden_size, n * config.k_rank, bias=False)
        self.W_B_k = nn.Linear(hidden_size, config.k_rank * config.head_dim, bias=False)
        self.W_A_v = nn.Linear(hidden_size, n * config.v_rank, bias=False)
        self.W_B_v = nn.Linear(hidden_size, config.v_rank * config.head_dim, bias=False)

    def query(self, x: Tensor, positions: Positions) -> Tensor:
        return self._normed(_contract(self._head_factor(self.W_A_q, x), self._rotated(self.W_B_q, x, positions)))

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor, ...]:
        return (
            self._head_factor(self.W_A_k, x),
            self._rotated(self.W_B_k, x, positions),
            self._head_factor(self.W_A_v, x),
            heads(self.W_B_v(x), self.v_head_dim),
        )

    def keys_values(
        self, a_k: Tensor, b_k: Tensor, a_v: Tensor, b_v: Tensor, *, positions: Positions
    ) -> tuple[Tensor, Tensor]:
        return self._normed(_contract(a_k, b_k)), _contract(a_v, b_v)

    def attend(
        self,
        q: Tensor,
        a_k: Tensor,
        b_k: Tensor,
        a_v: Tensor,
        b_v: Tensor,
        *,
        positions: Positions,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Over the factors (arXiv 2501.06425, section 3.4): a head's query meets the dimension factors, then its own
        weights of them."""
        if self.qk_norm:  # a norm of each head's key needs the key
            return super().attend(q, a_k, b_k, a_v, b_v, positions=positions, lengths=lengths)
        scale = self.scale / a_k.shape[-1]
        o = decoding_attention((q,), (b_k,), b_v, scale, lengths=lengths, factors=(a_k, a_v))
        return o / a_v.shape[-1]

    def _head_factor(self, projection: nn.Linear, x: Tensor) -> Tensor:
        """(batch, tokens, heads, rank)"""
        return projection(x).unflatten(-1, (self.num_attention_heads, -1))

    def _rotated(self, projection: nn.Linear, x: Tensor, positions: Positions) -> Tensor:
        """(batch, tokens, rank, head_dim), each rank turned as a head would be."""
        return rotate(heads(projection(x), self.qk_head_dim), positions)

    def _normed(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.qk_head_dim,), eps=1e-6) if self.qk_norm else x

    def uniform_bounds(self) -> dict[str, float]:
        """Xavier-uniform factors, each weight viewed as (hidden_size, first axis, second axis) of its product.

        The fans of such a view are those of a convolution's weight, as in the paper's code.
        """
        bounds = {}
        for name in "qkv":
            for factor in (f"W_A_{name}", f"W_B_{name}"):
                out, hidden_size = getattr(self, factor).out_features, getattr(self, factor).in_features
                first = self.num_attention_heads if "_A_" in factor else out // self.qk_head_dim
                bounds[f"{factor}.weight"] = math.sqrt(6 / (out // first * (first + hidden_size)))
        return bounds


def _contract(a: Tensor, b: Tensor) -> Tensor:
    """(batch, tokens, heads, rank) × (batch, tokens, rank, head_dim) / rank, in (batch, tokens, heads, head_dim)."""
    return a @ b / a.shape[-1]
