"""Multi-head low-rank attention (MLRA, arXiv 2603.02188): branches of MLA over blocks of one latent, summed.

The latent has four blocks, each with a norm and an up-projection of its own. With four branches each block makes keys
and values for all heads; with two, blocks 0 and 1 make those of the first branch, each for half of the heads, and 2 and
3 those of the second. Query and rotated key are shared by all branches. Cache: kv_lora_rank + qk_rope_head_dim.
Weights are named as in the paper's code: `kv_a_layernorms.0` to `.3`, `kv_b_proj` (4, kv_lora_rank / 4, a block's
heads·(nope + v)), the rest as in MLA.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mfa_train.attention.family.mla import MultiHeadLatentAttention
from mfa_train.attention.latent import LatentNorm, by_block
from mfa_train.attention.rope import Positions
from mfa_train.errors import ConfigError

BLOCKS = 4


class MultiHeadLowRankAttention(MultiHeadLatentAttention):
    @dataclass(kw_only=True)
    class Config(MultiHeadLatentAttention.Config):
        branches: int
        """2 | 4: attentions whose outputs are summed."""

        def __post_init__(self):
            super().__post_init__()
            if self.branches not in (2, 4):
                raise ConfigError(f"attention.branches={self.branches}: expected 2 or 4: type attention.branches=4")
            if self.kv_lora_rank % BLOCKS:
                raise ConfigError(
                    f"attention.kv_lora_rank={self.kv_lora_rank}: the latent has {BLOCKS} blocks of one width: type "
                    f"attention.kv_lora_rank={self.kv_lora_rank + -self.kv_lora_rank % BLOCKS}"
                )
            if self.num_attention_heads % self.heads_step:
                raise ConfigError(
                    f"attention.num_attention_heads={self.num_attention_heads} with attention.branches=2: each block "
                    "makes half of the heads: type an even number of heads, or attention.branches=4"
                )

        @property
        def heads_step(self) -> int:
            return BLOCKS // self.branches

    def __init__(self, hidden_size: int, config: Config):
        super().__init__(hidden_size, config, blocks=BLOCKS, branches=config.branches)
        self.branches = config.branches

    def make_latent(self, hidden_size: int, config: MultiHeadLatentAttention.Config) -> None:
        rank = config.kv_lora_rank // BLOCKS
        self.kv_a_layernorms = nn.ModuleList(LatentNorm(rank, hidden_size, config) for _ in range(BLOCKS))
        self.kv_b_proj = nn.Parameter(torch.empty(BLOCKS, rank, self.key_heads // BLOCKS * sum(self.nope_value)))

    def normed(self, latent: Tensor) -> Tensor:
        blocks = zip(self.kv_a_layernorms, latent.chunk(BLOCKS, dim=-1))
        return torch.stack([norm(block) for norm, block in blocks], dim=2)

    def expanded(self, latent: Tensor) -> Tensor:
        return by_block(latent, self.kv_b_proj)

    def up_projection(self) -> Tensor:
        return self.kv_b_proj.unflatten(2, (-1, sum(self.nope_value))).permute(0, 2, 3, 1)

    def query(self, x: Tensor, positions: Positions) -> Tensor:
        """The same for every branch: (batch, tokens, branches·heads, qk_head_dim)."""
        return super().query(x, positions).repeat(1, 1, self.branches, 1)

    def output(self, o: Tensor, x: Tensor, positions: Positions) -> Tensor:
        branches = o.unflatten(2, (self.branches, -1))
        return super().output(branches.sum(2) * self.branches**-0.5, x, positions)
