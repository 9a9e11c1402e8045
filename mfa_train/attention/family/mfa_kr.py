"""MFA with key reuse (MFA-KR, arXiv 2412.19255, section 3.3): the value is derived from the key.

With k the key before rotation, the paper's steps to it and Gemma 4's form of it (`attention.value`):

    key         v = k
    projection  v = N k
    residual    v = k + N k
    gated       v = k + alpha ⊙ (N k): S_v = (I + diag(alpha) N) S_k, MFA-KR; the gate alpha starts at zero
    key_norm    v = k / rms(k): an RMSNorm without weights, before the key's own norm and rotation

Cache: k before RoPE, head_dim. The query is MFA's; N is named v_proj.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfa_train.attention.base import heads
from mfa_train.attention.family.mfa import MultiMatrixFactorizationAttention
from mfa_train.attention.kernels.decoding import decoding_attention
from mfa_train.attention.rope import Positions, rotate
from mfa_train.config import require_choice


class KeyReuseAttention(MultiMatrixFactorizationAttention):
    @dataclass(kw_only=True)
    class Config(MultiMatrixFactorizationAttention.Config):
        value: str
        """gated | key | projection | residual | key_norm: how it is made of the key."""

        def __post_init__(self):
            super().__post_init__()
            require_choice("attention.value", self.value, ("gated", "key", "projection", "residual", "key_norm"))

    def make_key_value(self, hidden_size: int, config: Any) -> None:
        self.value = config.value
        self.k_proj = nn.Linear(hidden_size, config.head_dim, bias=False)
        if config.value in ("projection", "residual", "gated"):
            self.v_proj = nn.Linear(config.head_dim, config.head_dim, bias=False)
        if config.value == "gated":
            self.alpha = nn.Parameter(torch.zeros(config.head_dim))

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor]:
        return (heads(self.k_proj(x), self.qk_head_dim),)

    def keys_values(self, k: Tensor, *, positions: Positions) -> tuple[Tensor, Tensor]:
        return rotate(self.k_norm(k), positions), self._through_n(self._reused(k))

    def attend(self, q: Tensor, k: Tensor, *, positions: Positions, lengths: Tensor | None = None) -> Tensor:
        """Each head's average of the keys goes through N once, instead of every cached key."""
        reused = self._reused(k)
        o = decoding_attention((q,), (self.k_norm(k),), reused, self.scale, lengths=lengths, turned=positions)
        return self._through_n(o)

    def _reused(self, k: Tensor) -> Tensor:
        """What the heads average (batch, tokens, 1, head_dim)."""
        return F.rms_norm(k, (self.v_head_dim,), eps=1e-6) if self.value == "key_norm" else k

    def _through_n(self, k: Tensor) -> Tensor:
        """The linear map from key to value, of keys or of their averages."""
        if self.value == "projection":
            return self.v_proj(k)
        if self.value == "residual":
            return k + self.v_proj(k)
        return k + self.alpha * self.v_proj(k) if self.value == "gated" else k
