"""Shared key-value attention of DeepSeek-V4 (arXiv 2606.19348) over all tokens: one normed vector is key and value.

Its trailing dimensions are rotated as a key's, so the heads' outputs are rotated back at the query's position: what a
value says of position is its distance, too. Cache: the vector after norm and rotation, head_dim. Weights are named and
laid out as in Hugging Face's DeepSeek-V4. What is left out of V4's attention: docs/attention.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mfa_train.attention.base import Attention, AttentionConfig, Capacity, heads, multiples, require_divisor
from mfa_train.attention.kernels.causal import choose_kernel
from mfa_train.attention.latent import LatentConfig, LatentNorm, block_linear
from mfa_train.attention.rope import Positions, Rope, rotate
from mfa_train.errors import ConfigError


class DeepseekV4Attention(Attention):
    @dataclass(kw_only=True)
    class Config(LatentConfig):
        head_dim: int
        q_lora_rank: int
        qk_rope_head_dim: int
        """The trailing dimensions of a head, which RoPE turns."""
        o_groups: int
        """Groups of heads, each with a projection of its own to o_lora_rank."""
        o_lora_rank: int
        sinks: bool
        """A learned score of each head that takes part in its softmax without a value (gpt-oss)."""

        rope_key: ClassVar[str] = "qk_rope_head_dim"

        def __post_init__(self):
            super().__post_init__()
            if self.qk_rope_head_dim > self.head_dim:
                most = self.head_dim // 2 * 2
                meets = f"qk_rope_head_dim={most}" if most else f"head_dim={self.qk_rope_head_dim}"
                raise ConfigError(
                    f"attention.qk_rope_head_dim={self.qk_rope_head_dim} is more than attention.head_dim="
                    f"{self.head_dim}: type attention.{meets}"
                )
            require_divisor("o_groups", self.o_groups, "num_attention_heads", self.num_attention_heads)

        @property
        def heads_step(self) -> int:
            return self.o_groups

        def cache_choices(self) -> Iterator[dict[str, int]]:
            """Ranks go with head_dim where they were equal to it; heads narrower than what is rotated are rotated
            whole."""
            tied = [key for key in ("q_lora_rank", "o_lora_rank") if getattr(self, key) == self.head_dim]
            return (
                {"head_dim": dim, "qk_rope_head_dim": min(self.qk_rope_head_dim, dim)} | dict.fromkeys(tied, dim)
                for dim in multiples()
            )

    def __init__(self, hidden_size: int, config: Config):
        n, dim, eps = config.num_attention_heads, config.head_dim, config.latent_norm_eps
        super().__init__(hidden_size, config, qk_head_dim=dim, v_head_dim=dim)
        self.nope_rope = (dim - config.qk_rope_head_dim, config.qk_rope_head_dim)
        self.q_a_proj = nn.Linear(hidden_size, config.q_lora_rank, bias=False)
        self.q_a_norm = LatentNorm(config.q_lora_rank, hidden_size, config)
        self.q_b_proj = nn.Linear(config.q_lora_rank, n * dim, bias=False)
        self.q_b_norm = nn.RMSNorm(dim, eps=eps, elementwise_affine=config.qk_norm)
        self.kv_proj = nn.Linear(hidden_size, dim, bias=False)
        self.kv_norm = LatentNorm(dim, hidden_size, config)
        if config.sinks:
            self.kernel = choose_kernel(config.kernel, dim, sinks=True)
            self.sinks = nn.Parameter(torch.zeros(n))

    def make_output(self, hidden_size: int, config: Config) -> None:
        width, ranks = config.num_attention_heads * config.head_dim, config.o_groups * config.o_lora_rank
        self.o_groups = config.o_groups
        self.o_a_proj = block_linear(width, ranks, config.o_groups)
        self.o_b_proj = nn.Linear(ranks, hidden_size, bias=False)

    def query(self, x: Tensor, positions: Positions) -> Tensor:
        q = self.q_b_proj(self.q_a_norm(self.q_a_proj(x)))
        return self._turned(self.q_b_norm(heads(q, self.qk_head_dim)), positions)

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor]:
        return (self._turned(heads(self.kv_norm(self.kv_proj(x)), self.qk_head_dim), positions),)

    def keys_values(self, kv: Tensor, *, positions: Positions) -> tuple[Tensor, Tensor]:
        return kv, kv

    def output(self, o: Tensor, x: Tensor, positions: Positions) -> Tensor:
        nope, rope = o.split(self.nope_rope, dim=-1)
        rope = rotate(rope, positions.back()._replace(interleave=False))  # what is rotated stands in halves by now
        if positions.interleave:
            rope = rope.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        o = self.gated(torch.cat((nope, rope), dim=-1), x).flatten(2)
        return self.o_b_proj(self.o_a_proj(o.unflatten(-1, (self.o_groups, -1))).flatten(2))

    @staticmethod
    def make_rope(config: AttentionConfig) -> Rope:
        """Without yarn's factor, as in V4: it is meant for scores, and would be the values' too."""
        rope = Attention.make_rope(config)
        rope.attention_factor = 1.0
        return rope

    def _turned(self, x: Tensor, positions: Positions) -> Tensor:
        nope, rope = x.split(self.nope_rope, dim=-1)
        return torch.cat((nope, rotate(rope, positions)), dim=-1)

    def capacity(self) -> Capacity:
        """Norms set a token's query and key in proportion and change no rank; sinks are no scores of two tokens."""
        latent = min(self.qk_head_dim, self.kv_proj.in_features)
        rank = min(latent, self.q_a_proj.out_features, self.kv_proj.in_features)
        return Capacity(self.num_attention_heads * rank, latent)
