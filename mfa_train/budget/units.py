"""How a plan's amounts are written for a person; one way for each, wherever they are told. None is a dash."""

import math
import sys
from collections.abc import Callable
from decimal import Decimal

from mfa_train.config.quantities import written

UNKNOWN = "-"


def finite(number: Callable[[], float]) -> float | None:
    """None where no float holds it."""
    try:
        return found if math.isfinite(found := number()) else None
    except (OverflowError, ZeroDivisionError):
        return None


def times(*factors: float | None) -> float | None:
    """Their product; None where one of them is unknown, or no float holds it."""
    known = [factor for factor in factors if factor is not None]
    return finite(lambda: math.prod(known)) if len(known) == len(factors) else None


def over(amount: float | None, divisor: float | None) -> float | None:
    """Their quotient; None where one of them is unknown or 0, or no float holds it."""
    return finite(lambda: amount / divisor) if amount and divisor else None


def together(*parts: float | None) -> float | None:
    """Their sum; None where one of them is unknown."""
    known = [part for part in parts if part is not None]
    return finite(lambda: sum(known)) if len(known) == len(parts) else None


def size_of(amount: float | None) -> str:
    """Bytes: 24.88 GiB."""
    return UNKNOWN if amount is None else written(_divisible(amount))


def count(number: int) -> str:
    """Of parameters or tokens: 6.738B, 3.295M, 4,096."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{_divisible(number) / size:.4g}{unit}"
    return f"{number:,}"


def flops(number: float) -> str:
    return f"{_divisible(number):.3g}"


def ratio(value: float | None) -> str:
    """Tokens per parameter, epochs: 20.8, 140,000, 0.001."""
    return UNKNOWN if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{_grouped(seconds / size)} {unit}"
    return f"{seconds:.3g} s"


def hours(value: float | None) -> str:
    """Of devices: 4,214; 86.9; 0.0646."""
    return UNKNOWN if value is None else _grouped(value)


def money(value: float | None) -> str:
    """In the currency of cluster.price_per_device_hour: to the hundredth below a thousand, above to the whole."""
    return UNKNOWN if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:,.2f}"


def _grouped(value: float) -> str:
    """To three digits, or to the whole."""
    if value < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value < 1e15 else f"{value:.3g}"


def _divisible(number: float) -> float | Decimal:
    """As something that can be divided and written with an exponent, however large."""
    return number if number < sys.float_info.max else Decimal(number)
