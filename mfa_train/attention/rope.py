"""Rotary positions (RoFormer, arXiv 2104.09864), with the scalings used for long context.

Scalings are named and computed as in Hugging Face configs (`rope_scaling`): `linear` (arXiv 2306.15595), `yarn`
(arXiv 2309.00071) and `llama3` (arXiv 2407.21783). Rotation is done in float32 whatever the model's precision.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mfa_train.config import require_choice, require_number
from mfa_train.errors import ConfigError


@dataclass
class RopeScaling:
    rope_type: str
    """linear | yarn | llama3."""
    factor: float
    """By how much the context grows."""
    original_max_position_embeddings: int | None = None
    """The context trained before (yarn, llama3)."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def __post_init__(self):
        require_choice("attention.rope_scaling.rope_type", self.rope_type, ("linear", "yarn", "llama3"))
        require_number("attention.rope_scaling.factor", self.factor, 1, 1e6)
        for key in ("beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor"):
            require_number(f"attention.rope_scaling.{key}", getattr(self, key), 0, 1e6)
        if self.low_freq_factor >= self.high_freq_factor:
            raise ConfigError(
                f"attention.rope_scaling.low_freq_factor={self.low_freq_factor}: expected less than "
                f"high_freq_factor={self.high_freq_factor}"
            )
        if self.rope_type != "linear" and (self.original_max_position_embeddings or 0) < 1:
            raise ConfigError(
                "attention.rope_scaling.original_max_position_embeddings="
                f"{self.original_max_position_embeddings}: "
                f"{self.rope_type} needs the context length trained before, as 4096"
            )


class Positions(NamedTuple):
    """The rotations at the positions of some tokens: cos and sin (tokens, rope_dim / 2) or (batch, tokens, …)."""

    cos: Tensor
    sin: Tensor
    interleave: bool

    def at(self, index: Tensor) -> "Positions":
        """Of positions (tokens,) those that `index` (batch, tokens) picks."""
        return Positions(self.cos[index], self.sin[index], self.interleave)

    def between(self, start: int, end: int) -> "Positions":
        return Positions(self.cos[..., start:end, :], self.sin[..., start:end, :], self.interleave)

    def back(self) -> "Positions":
        """The same turns backwards."""
        return Positions(self.cos, -self.sin, self.interleave)


class Rope:
    """Rotations of `dim` dimensions to base `theta`. Called with positions (tokens,) or (batch, tokens)."""

    def __init__(self, dim: int, theta: float, scaling: RopeScaling | None = None, interleave: bool = False):
        self.inverse_frequencies = inverse_frequencies(dim, theta, scaling)
        self.attention_factor = 1.0
        if scaling is not None and scaling.rope_type == "yarn":
            self.attention_factor = 0.1 * math.log(scaling.factor) + 1.0
        self.interleave = interleave

    def __call__(self, index: Tensor) -> Positions:
        if self.inverse_frequencies.device != index.device:
            self.inverse_frequencies = self.inverse_frequencies.to(index.device)
        angles = index.unsqueeze(-1).float() * self.inverse_frequencies
        return Positions(angles.cos() * self.attention_factor, angles.sin() * self.attention_factor, self.interleave)


def rotate(x: Tensor, positions: Positions) -> Tensor:
    """x (batch, tokens, heads, rope_dim) turned. Interleaved pairs come out in halves: dot products don't notice."""
    cos, sin = positions.cos.unsqueeze(-2), positions.sin.unsqueeze(-2)
    wide = x.float()
    first, second = (wide[..., 0::2], wide[..., 1::2]) if positions.interleave else wide.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def inverse_frequencies(dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """Angle per position of each pair of dimensions, (dim / 2,) float32."""
    # From whole numbers: while ZeRO 3 builds a bf16 model, every float tensor that torch makes comes out in bf16.
    pairs = torch.arange(dim // 2, device="cpu").float()
    plain = theta ** -(2 * pairs / dim)
    if scaling is None:
        return plain
    stretched = plain / scaling.factor
    if scaling.rope_type == "linear":
        return stretched
    original = scaling.original_max_position_embeddings or 0  # never 0: RopeScaling has asked for it
    if scaling.rope_type == "llama3":
        turns = original * plain / (2 * math.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        keep = ((turns - low) / (high - low)).clamp(0, 1)
    else:

        def dimension_of(rotations: float) -> float:
            return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(dimension_of(scaling.beta_fast)), 0)
        high = min(math.ceil(dimension_of(scaling.beta_slow)), dim - 1)
        ramp = (pairs - low) / max(high - low, 1e-3)
        keep = 1 - ramp.clamp(0, 1)
    return keep * plain + (1 - keep) * stretched
