"""Latents, which stand between the two matrices of a low-rank projection: their norms, and products of their blocks."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfa_train.attention.base import AttentionConfig
from mfa_train.errors import ConfigError


@dataclass(kw_only=True)
class LatentConfig(AttentionConfig):
    """The keys of an attention with a latent of its own."""

    latent_scale: bool
    """Multiplies each latent by sqrt(hidden_size / rank) after its norm, as in the MLRA paper (arXiv 2603.02188)."""
    latent_norm_eps: float
    """Of the latents' norms, whatever model.rms_norm_eps says: 1e-6 in DeepSeek-V3, 1e-5 in Step-3."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.latent_norm_eps <= 1:
            raise ConfigError(
                f"attention.latent_norm_eps={self.latent_norm_eps}: expected a number above 0 and at most 1, as 1e-6"
            )


class LatentNorm(nn.RMSNorm):
    """RMSNorm of a latent (batch, tokens, rank), and its scale if the config asks for one. More than one of `blocks`
    are normed each by itself and come out as (batch, tokens, blocks, rank / blocks)."""

    def __init__(self, rank: int, hidden_size: int, config: LatentConfig, blocks: int = 1):
        super().__init__(rank, eps=config.latent_norm_eps)
        self.blocks = blocks
        self.factor = (hidden_size * blocks / rank) ** 0.5 if config.latent_scale else 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.blocks == 1:
            normed = super().forward(x)
        else:
            x, weight = x.unflatten(-1, (self.blocks, -1)), self.weight.view(self.blocks, -1)
            normed = F.rms_norm(x, x.shape[-1:], eps=self.eps) * weight
        return normed * self.factor if self.factor != 1.0 else normed


class BlockLinear(nn.Module):
    """Of a latent in blocks, (batch, tokens, blocks, rank / blocks), each block through its own rows of the weight
    (out_features, rank / blocks): (batch, tokens, out_features)."""

    def __init__(self, rank: int, out_features: int, blocks: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, rank // blocks))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Linear's
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        return by_block(x, [rows.t() for rows in self.weight.chunk(self.blocks)])


def block_linear(rank: int, out_features: int, blocks: int = 1) -> nn.Linear | BlockLinear:
    """A `BlockLinear`, or of one block an ordinary Linear of (batch, tokens, rank): what adapters know."""
    return nn.Linear(rank, out_features, bias=False) if blocks == 1 else BlockLinear(rank, out_features, blocks)


def by_block(x: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """Each block of x (batch, tokens, blocks, rank) times its own of the weights (rank, width): their products side by
    side, (batch, tokens, blocks·width)."""
    return torch.cat([block @ weight for block, weight in zip(x.unbind(2), weights, strict=True)], dim=-1)
