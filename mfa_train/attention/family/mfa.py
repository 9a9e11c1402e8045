"""Multi-matrix factorization attention (MFA, arXiv 2412.19255, section 3; Step-3, arXiv 2507.19427).

Head c scores token j for token i by x_i S_q Q_c (x_j S_k)ᵀ: a low-rank query S_q Q_c widens and multiplies the heads,
while one key head S_k and one value head S_v are shared by all. Cache: k after RoPE and v, 2·head_dim.

Step-3 norms the query's latent (`inter_norm`), which the paper does not show. Weights are named as in Step-3's text
model: q_proj (S_q), inter_norm, wq (the Q_c), k_proj, v_proj, o_proj.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from mfa_train.attention.base import Attention, Capacity, heads, multiples, of_own_entry
from mfa_train.attention.latent import LatentConfig, LatentNorm
from mfa_train.attention.rope import Positions, rotate
from mfa_train.errors import ConfigError


class MultiMatrixFactorizationAttention(Attention):
    @dataclass(kw_only=True)
    class Config(LatentConfig):
        head_dim: int
        q_lora_rank: int
        inter_norm: bool

        def __post_init__(self):
            super().__post_init__()
            if self.latent_scale and not self.inter_norm:
                raise ConfigError(
                    "attention.latent_scale=true scales a latent after its norm, and attention.inter_norm=false has "
                    "none: type attention.inter_norm=true, or attention.latent_scale=false"
                )

        def cache_choices(self) -> Iterator[dict[str, int]]:
            """The query's rank goes with head_dim where it was equal to it, as in the paper."""
            tied = self.q_lora_rank == self.head_dim
            return ({"head_dim": dim, "q_lora_rank": dim if tied else self.q_lora_rank} for dim in multiples())

    def __init__(self, hidden_size: int, config: Config):
        super().__init__(hidden_size, config, qk_head_dim=config.head_dim, v_head_dim=config.head_dim)
        self.q_proj = nn.Linear(hidden_size, config.q_lora_rank, bias=False)
        norm = config.inter_norm
        self.inter_norm = LatentNorm(config.q_lora_rank, hidden_size, config) if norm else nn.Identity()
        self.wq = nn.Linear(config.q_lora_rank, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, config.head_dim, bias=False)
        self.make_value(hidden_size, config)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_dim, eps=1e-6) if config.qk_norm else nn.Identity()

    def make_value(self, hidden_size: int, config: Config) -> None:
        self.v_proj = nn.Linear(hidden_size, config.head_dim, bias=False)

    def query(self, x: Tensor, positions: Positions) -> Tensor:
        q = self.wq(self.inter_norm(self.q_proj(x)))
        return rotate(self.q_norm(heads(q, self.qk_head_dim)), positions)

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor, ...]:
        k = self.k_norm(heads(self.k_proj(x), self.qk_head_dim))
        return rotate(k, positions), heads(self.v_proj(x), self.v_head_dim)

    @of_own_entry
    def keys_values(self, k: Tensor, v: Tensor, *, positions: Positions) -> tuple[Tensor, Tensor]:
        return k, v

    def capacity(self) -> Capacity:
        hidden_size, latent = self.q_proj.in_features, min(self.qk_head_dim, self.k_proj.in_features)
        rank = min(latent, self.q_proj.out_features, hidden_size)
        return Capacity(self.num_attention_heads * rank, latent)
