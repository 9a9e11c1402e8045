"""Grouped-tied attention (GTA, arXiv 2505.21487): a group's one state is its value and half of its key.

The first half of the state is the key's first half, which is not rotated; its second half is rotated and shared by all
groups. Cache: the states and the rotated half-key, num_key_value_heads·head_dim + head_dim/2. Weights are named as in
the paper's code: q_proj, kv_proj (the states), W_rope_k (the half-key), o_proj.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mfa_train.attention.base import Attention, Capacity, heads
from mfa_train.attention.family.gqa import GroupedQueryAttention
from mfa_train.attention.kernels.decoding import decoding_attention
from mfa_train.attention.rope import Positions, rotate
from mfa_train.errors import ConfigError


class GroupedTiedAttention(Attention):
    @dataclass(kw_only=True)
    class Config(GroupedQueryAttention.Config):
        @property
        def rope_dim(self) -> int:
            """The second half of each head."""
            return self.head_dim // 2

        def __post_init__(self):
            super().__post_init__()
            if self.head_dim % 2:
                raise ConfigError(
                    f"attention.head_dim={self.head_dim}: half of a head is tied and half is turned in pairs: "
                    f"type attention.head_dim={-(-self.head_dim // 4) * 4}"
                )

    def __init__(self, hidden_size: int, config: Config):
        super().__init__(hidden_size, config, qk_head_dim=config.head_dim, v_head_dim=config.head_dim)
        half = config.head_dim // 2
        self.q_proj = nn.Linear(hidden_size, config.num_attention_heads * config.head_dim, bias=False)
        self.kv_proj = nn.Linear(hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.W_rope_k = nn.Linear(hidden_size, half, bias=False)
        # The shared half-key is normed before it is cached, the tied half of a state for the scores alone.
        self.q_norm = nn.RMSNorm(config.head_dim, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(half, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_rope_norm = nn.RMSNorm(half, eps=1e-6) if config.qk_norm else nn.Identity()

    def query(self, x: Tensor, positions: Positions) -> Tensor:
        nope, rope = self.q_norm(heads(self.q_proj(x), self.qk_head_dim)).chunk(2, dim=-1)
        return torch.cat((nope, rotate(rope, positions)), dim=-1)

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        rope = rotate(self.k_rope_norm(self.W_rope_k(x)).unsqueeze(2), positions).squeeze(2)
        return heads(self.kv_proj(x), self.v_head_dim), rope

    def keys_values(self, state: Tensor, rope: Tensor, *, positions: Positions) -> tuple[Tensor, Tensor]:
        shared = rope.unsqueeze(2).expand(-1, -1, state.shape[2], -1)
        return torch.cat((self._tied_key(state), shared), dim=-1), state

    def attend(
        self, q: Tensor, state: Tensor, rope: Tensor, *, positions: Positions, lengths: Tensor | None = None
    ) -> Tensor:
        """A score is the sum of the two halves' products: no key is put together."""
        k = (self._tied_key(state), rope.unsqueeze(2))
        return decoding_attention(q.chunk(2, dim=-1), k, state, self.scale, lengths=lengths)

    def _tied_key(self, state: Tensor) -> Tensor:
        return self.k_norm(state[..., : self.v_head_dim // 2])

    def capacity(self) -> Capacity:
        """Of the tied half: position, and with it the rotated half, is left out."""
        hidden_size, half = self.kv_proj.in_features, self.qk_head_dim // 2
        tied = self.kv_proj.out_features // 2
        return Capacity(self.num_attention_heads * min(half, hidden_size), min(tied, hidden_size))
