"""Fully parameterized bilinear attention (FPBA, arXiv 2412.19255, section 2), the upper bound that MFA is measured by.

Head c scores token j for token i by x_i W_c x_jᵀ / sqrt(d) and sums x_j U_c, with dense W_c and U_c: MFA whose S_k and
S_v are the identity and whose heads are as wide as the hidden size d. Absorbed like that, every head reads the layer's
input itself, key (rotated) and value in one. Cache: the layer's input, d. The paper has d heads; here there are
`num_attention_heads`, of full or of low rank. q_proj holds the W_c (or q_proj, inter_norm and wq), o_proj the U_c.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mfa_train.attention.family.mfa import MultiMatrixFactorizationAttention
from mfa_train.attention.kernels.decoding import decoding_attention
from mfa_train.attention.rope import Positions, rotate
from mfa_train.errors import ConfigError


class FullyParameterizedBilinearAttention(MultiMatrixFactorizationAttention):
    @dataclass(kw_only=True)
    class Config(MultiMatrixFactorizationAttention.Config):
        """head_dim is the hidden size."""

        def __post_init__(self):
            if self.head_dim % 2:
                raise ConfigError(
                    f"attention.head_dim={self.head_dim}: fpba's heads are as wide as the model, and RoPE turns pairs "
                    f"of dimensions: type model.hidden_size={self.head_dim + 1}"
                )
            super().__post_init__()

        def cache_choices(self) -> Iterator[dict[str, int]]:
            """None: the layer's input is as wide as the model."""
            return iter(())

    def __init__(self, hidden_size: int, config: Config):
        if config.head_dim != hidden_size:
            raise ConfigError(
                f"attention.head_dim={config.head_dim}: fpba's heads read the layer's input, model.hidden_size="
                f"{hidden_size} wide: type attention.head_dim={hidden_size}, or nothing"
            )
        super().__init__(hidden_size, config)

    def make_key_value(self, hidden_size: int, config: Any) -> None:
        """S_k and S_v are the identity."""

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor]:
        return (x,)

    def keys_values(self, x: Tensor, *, positions: Positions) -> tuple[Tensor, Tensor]:
        x = x.unsqueeze(2)
        return rotate(self.k_norm(x), positions), x

    def attend(self, q: Tensor, x: Tensor, *, positions: Positions, lengths: Tensor | None = None) -> Tensor:
        x = x.unsqueeze(2)
        return decoding_attention((q,), (self.k_norm(x),), x, self.scale, lengths=lengths, turned=positions)

    def notes(self) -> list[str]:
        d, m = self.qk_head_dim, self.num_attention_heads
        return [
            f"fpba: the MFA paper books its bound of {d:,} heads with 2d² = {2 * d**2:,} cached values a token and "
            f"2d³ = {2 * d**3:,} parameters in each layer; here {m} heads read the layer's input, {d:,} values"
        ]
