"""MFA with key reuse (MFA-KR, arXiv 2412.19255, section 3.3): the value is derived from the key.

S_v = (I + diag(alpha) N) S_k, so v = k + alpha ⊙ (N k) of the key before rotation; the gate alpha starts at zero and
works on the output channels. Cache: k before RoPE, head_dim. The query is MFA's.
"""

import torch
from torch import Tensor, nn

from mfa_train.attention.base import heads
from mfa_train.attention.family.mfa import MultiMatrixFactorizationAttention
from mfa_train.attention.kernels.decoding import decoding_attention
from mfa_train.attention.rope import Positions, rotate


class KeyReuseAttention(MultiMatrixFactorizationAttention):
    def make_value(self, hidden_size: int, config: MultiMatrixFactorizationAttention.Config) -> None:
        self.v_proj = nn.Linear(config.head_dim, config.head_dim, bias=False)
        self.alpha = nn.Parameter(torch.zeros(config.head_dim))

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor]:
        return (heads(self.k_proj(x), self.qk_head_dim),)

    def keys_values(self, k: Tensor, *, positions: Positions) -> tuple[Tensor, Tensor]:
        return rotate(self.k_norm(k), positions), k + self.alpha * self.v_proj(k)

    def attend(self, q: Tensor, k: Tensor, *, positions: Positions, lengths: Tensor | None = None) -> Tensor:
        """Each head's average of the keys goes through N once, instead of every cached key."""
        o = decoding_attention((q,), (self.k_norm(k),), k, self.scale, lengths=lengths, turned=positions)
        return o + self.alpha * self.v_proj(o)
