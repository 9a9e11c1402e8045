"""Multi-matrix factorization attention (MFA, arXiv 2412.19255, section 3; Step-3, arXiv 2507.19427).

Head c scores token j for token i by x_i S_q Q_c (x_j S_k)ᵀ: a low-rank query S_q Q_c widens and multiplies the heads,
while one key head S_k and one value head S_v are shared by all. Cache: k after RoPE and v, 2·head_dim.

Step-3 norms the query's latent (`inter_norm`), which the paper does not show. Weights are named as in Step-3's text
model: q_proj (S_q), inter_norm, wq (the Q_c), k_proj, v_proj, o_proj. A query of full rank is q_proj alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mfa_train.attention.base import Attention, Capacity, heads, multiples, of_own_entry
from mfa_train.attention.latent import LatentConfig, LatentNorm
from mfa_train.attention.rope import Positions, rotate
from mfa_train.errors import ConfigError


class MultiMatrixFactorizationAttention(Attention):
    @dataclass(kw_only=True)
    class Config(LatentConfig):
        head_dim: int
        q_lora_rank: int | None
        """null: the query is of full rank, and has no latent to norm."""
        inter_norm: bool

        def __post_init__(self):
            super().__post_init__()
            if self.latent_scale and self.q_lora_rank is None:
                raise ConfigError(
                    "attention.latent_scale=true scales the query's latent, and attention.q_lora_rank=null has none: "
                    f"type attention.q_lora_rank={self.head_dim}, or attention.latent_scale=false"
                )
            if self.latent_scale and not self.inter_norm:
                raise ConfigError(
                    "attention.latent_scale=true scales a latent after its norm, and attention.inter_norm=false has "
                    "none: type attention.inter_norm=true, or attention.latent_scale=false"
                )

        def cache_choices(self) -> Iterator[dict[str, int]]:
            """The query's rank goes with head_dim where it was equal to it, as in the paper."""
            keys = ("head_dim", "q_lora_rank") if self.q_lora_rank == self.head_dim else ("head_dim",)
            return (dict.fromkeys(keys, dim) for dim in multiples())

    def __init__(self, hidden_size: int, config: Config):
        super().__init__(hidden_size, config, qk_head_dim=config.head_dim, v_head_dim=config.head_dim)
        rank, wide = config.q_lora_rank, config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(hidden_size, rank or wide, bias=False)
        if rank is not None:
            self.inter_norm = LatentNorm(rank, hidden_size, config) if config.inter_norm else nn.Identity()
            self.wq = nn.Linear(rank, wide, bias=False)
        self.make_key_value(hidden_size, config)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_dim, eps=1e-6) if config.qk_norm else nn.Identity()

    def make_key_value(self, hidden_size: int, config: Any) -> None:
        """The weights of key and value, norms left out. `config` is the variant's own."""
        self.k_proj = nn.Linear(hidden_size, config.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, config.head_dim, bias=False)

    def query(self, x: Tensor, positions: Positions) -> Tensor:
        q = self.q_proj(x)
        if hasattr(self, "wq"):
            q = self.wq(self.inter_norm(q))
        return rotate(self.q_norm(heads(q, self.qk_head_dim)), positions)

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor, ...]:
        k = self.k_norm(heads(self.k_proj(x), self.qk_head_dim))
        return rotate(k, positions), heads(self.v_proj(x), self.v_head_dim)

    @of_own_entry
    def keys_values(self, k: Tensor, v: Tensor, *, positions: Positions) -> tuple[Tensor, Tensor]:
        return k, v

    def capacity(self) -> Capacity:
        latent = min(self.qk_head_dim, self.q_proj.in_features)
        return Capacity(self.num_attention_heads * min(latent, self.q_proj.out_features), latent)
