"""Grouped latent attention (GLA, arXiv 2505.21487, section 3.3): MLA whose latent is split into blocks.

Each block has a norm of its own and makes keys and values for its share of the heads, the first block for the first.
Cache: as MLA's, kv_lora_rank + qk_rope_head_dim; of devices that share the heads each needs its own blocks alone. One
block is MLA to the bit, and weights are named as there: of `kv_a_layernorm` each block has its part, of `kv_b_proj`
(heads·(nope + v), kv_lora_rank / latent_groups) its heads' rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mfa_train.attention.base import multiples
from mfa_train.attention.family.mla import MultiHeadLatentAttention
from mfa_train.errors import ConfigError


class GroupedLatentAttention(MultiHeadLatentAttention):
    @dataclass(kw_only=True)
    class Config(MultiHeadLatentAttention.Config):
        latent_groups: int
        """Blocks of the latent, each for as many heads."""

        def __post_init__(self):
            super().__post_init__()
            both = math.gcd(self.num_attention_heads, self.kv_lora_rank)
            near = max(groups for groups in range(1, self.latent_groups + 1) if both % groups == 0)
            refused = f"attention.latent_groups={self.latent_groups} does not divide attention"
            if self.num_attention_heads % self.latent_groups:
                raise ConfigError(
                    f"{refused}.num_attention_heads={self.num_attention_heads}: type attention.latent_groups={near}"
                )
            if self.kv_lora_rank % self.latent_groups:
                rank = self.kv_lora_rank + -self.kv_lora_rank % math.lcm(8, self.latent_groups)
                raise ConfigError(
                    f"{refused}.kv_lora_rank={self.kv_lora_rank}: type attention.kv_lora_rank={rank}, or "
                    f"attention.latent_groups={near}"
                )

        @property
        def heads_step(self) -> int:
            return self.latent_groups

        def cache_choices(self) -> Iterator[dict[str, int]]:
            return ({"kv_lora_rank": rank} for rank in multiples(math.lcm(8, self.latent_groups)))

    def __init__(self, hidden_size: int, config: Config):
        super().__init__(hidden_size, config, blocks=config.latent_groups)
        self.register_load_state_dict_pre_hook(_side_by_side)


def _side_by_side(layer: GroupedLatentAttention, weights: dict[str, Tensor], prefix: str, *_) -> None:
    """Blocks that come as matrices of their own, numbered from one (kv_b_proj_1, …), as MLRA's code has GLA-2's."""
    for name in ("kv_a_layernorm", "kv_b_proj"):
        blocks = [f"{prefix}{name}_{block + 1}.weight" for block in range(layer.blocks)]
        if all(block in weights for block in blocks):
            weights[f"{prefix}{name}.weight"] = torch.cat([weights.pop(block) for block in blocks])
