"""The types in which a cache may hold entries, and how they come back in the type that attention computes in.

fp8 is torch.float8_e4m3fn (OCP's E4M3: 448 at most, 3 bits of mantissa), with one scale a token and tensor of the
entry beside it: a power of two in one byte (OCP's E8M0, as DeepSeek-V3.1 scales), with which the token's largest value
comes between 224 and 448. Multiplying by it is exact. What is not finite comes back not finite.
"""

import torch
from torch import Tensor

from mfa_train.errors import ConfigError

CACHE_DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
"""By `cache.dtype`. None: the type of the entries, which is that of the weights."""
SCALE_DTYPE = torch.float8_e8m0fnu
LARGEST = 448.0


def cache_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """What `cache.dtype` = `name` is on `device`. Raises ConfigError where that cannot hold it."""
    dtype = CACHE_DTYPES[name]
    if dtype == torch.float8_e4m3fn:
        try:
            for eight_bits in (dtype, SCALE_DTYPE):
                torch.ones(1, device=device).to(eight_bits).float()
        except (RuntimeError, TypeError) as error:
            raise ConfigError(
                f"cache.dtype={name}: torch {torch.__version__} has no float8_e4m3fn on {device.type} "
                f"({str(error).splitlines()[0]}): type cache.dtype=bf16"
            ) from None
    return dtype


def held_in(name: str, dtype: torch.dtype) -> str:
    """The type that `cache.dtype` = `name` stands for, in its words, where entries come in `dtype`."""
    return next(known for known, one in CACHE_DTYPES.items() if one == dtype) if name == "auto" else name


def stored(entry: tuple[Tensor, ...], dtype: torch.dtype | None) -> tuple[Tensor, ...]:
    """What a cache of `dtype` keeps of an entry: as many tensors (batch, tokens, ...); in fp8 behind them as many
    scales (batch, tokens), as bytes: torch puts no E8M0 at places of a tensor."""
    if dtype != torch.float8_e4m3fn:
        return entry if dtype is None else tuple(part.to(dtype) for part in entry)
    scales = tuple(_scale(part) for part in entry)
    values = ((part.float() / _beside(part, scale, torch.float32)).to(dtype) for part, scale in zip(entry, scales))
    return (*values, *scales)


def read(kept: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The entry in `dtype`, of what `stored` made of it."""
    if kept[0].dtype != torch.float8_e4m3fn:
        return tuple(part.to(dtype) for part in kept)
    values, scales = kept[: len(kept) // 2], kept[len(kept) // 2 :]
    return tuple(part.to(dtype) * _beside(part, scale, dtype) for part, scale in zip(values, scales))


def _scale(part: Tensor) -> Tensor:
    """(batch, tokens): the powers of two next above largest value / 448; of zeros 1; NaN where one is not finite."""
    largest = part.flatten(2).abs().amax(dim=-1).float()
    exponent = torch.frexp(largest / LARGEST).exponent.clamp(min=-126)
    return (
        torch.ones_like(largest)
        .ldexp(exponent)
        .masked_fill(~largest.isfinite(), torch.nan)
        .to(SCALE_DTYPE)
        .view(torch.uint8)
    )


def _beside(part: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """scale (batch, tokens) in `dtype`, as it multiplies part (batch, tokens, ...)."""
    return scale.view(SCALE_DTYPE).to(dtype).view(*scale.shape, *(1,) * (part.ndim - 2))
