"""The types in which a cache may hold entries, and how they come back in the type that attention computes in.

fp8 is torch.float8_e4m3fn (OCP's E4M3: 448 at most, 3 bits of mantissa), with one scale a token and tensor of the
entry, stored as bfloat16 beside it: the token's largest value becomes 448. Values are divided by the scale as it is
stored, so its rounding costs nothing. What is not finite comes back not finite.
"""

import torch
from torch import Tensor

from mfa_train.errors import ConfigError

CACHE_DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
"""By `cache.dtype`. None: the type of the entries, which is that of the weights."""
LARGEST = 448.0
SMALLEST_SCALE = torch.finfo(torch.bfloat16).tiny


def cache_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """What `cache.dtype` = `name` is on `device`. Raises ConfigError where that cannot hold it."""
    dtype = CACHE_DTYPES[name]
    if dtype == torch.float8_e4m3fn:
        try:
            torch.ones(1, device=device).to(dtype).float()
        except (RuntimeError, TypeError) as error:
            raise ConfigError(
                f"cache.dtype={name}: torch {torch.__version__} has no float8_e4m3fn on {device.type} "
                f"({str(error).splitlines()[0]}): type cache.dtype=bf16"
            ) from None
    return dtype


def stored(entry: tuple[Tensor, ...], dtype: torch.dtype | None) -> tuple[Tensor, ...]:
    """What a cache of `dtype` keeps of an entry: as many tensors (batch, tokens, ...); in fp8 behind them as many
    scales (batch, tokens)."""
    if dtype != torch.float8_e4m3fn:
        return entry if dtype is None else tuple(part.to(dtype) for part in entry)
    scales = tuple(_scale(part) for part in entry)
    values = (
        (part.float() / _beside(part, scale.float())).clamp(-LARGEST, LARGEST).to(dtype)
        for part, scale in zip(entry, scales)
    )
    return (*values, *scales)


def read(kept: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The entry in `dtype`, of what `stored` made of it."""
    if kept[0].dtype != torch.float8_e4m3fn:
        return tuple(part.to(dtype) for part in kept)
    values, scales = kept[: len(kept) // 2], kept[len(kept) // 2 :]
    return tuple(part.to(dtype) * _beside(part, scale.to(dtype)) for part, scale in zip(values, scales))


def _scale(part: Tensor) -> Tensor:
    """(batch, tokens); of zeros the smallest there is, which leaves them zero."""
    largest = part.flatten(2).abs().amax(dim=-1).float()
    return (largest / LARGEST).clamp(min=SMALLEST_SCALE).to(torch.bfloat16)


def _beside(part: Tensor, scale: Tensor) -> Tensor:
    """scale (batch, tokens) as it multiplies part (batch, tokens, ...)."""
    return scale.view(*scale.shape, *(1,) * (part.ndim - 2))
