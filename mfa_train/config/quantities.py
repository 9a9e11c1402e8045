"""Quantities as people write them: `24KiB`, `1e9`, `1_000`."""

import re
from decimal import Decimal
from typing import Annotated, Any

from mfa_train.errors import ConfigError

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
Bytes = Annotated[int, "bytes"]
"""Of a field of the schema: a number of bytes, with a unit or without."""
MOST_BYTES = 2**63
MOST_DIGITS = 4_000
"""Of a number; Python doesn't print many more."""
NUMBER = r"(?:\d+(?:_\d+)*(?:\.(?:\d+(?:_\d+)*)?)?|\.\d+(?:_\d+)*)(?:e[+-]?\d{1,4})?"


def whole(value: Any) -> int | None:
    """The whole number that `value` is, exactly: 100 of 100, 100.0, "1e2" or "1_00"; None where it is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = repr(value)
    if not isinstance(value, str) or not re.fullmatch(rf"[+-]?{NUMBER}", value.strip(), re.IGNORECASE | re.ASCII):
        return None
    return _exact(Decimal(value.strip().replace("_", "")))


def bytes_of(key: str, value: Any) -> int:
    """A number of bytes from 24576, "24576", "24KiB" (1,024 each) or "24KB" (1,000 each). Raises ConfigError."""
    found = re.fullmatch(rf"({NUMBER})\s*([a-z]*)", str(value).strip(), re.IGNORECASE | re.ASCII)
    amount = None
    if found and (unit := UNITS.get(found[2].upper())):
        amount = _exact(Decimal(found[1].replace("_", "")) * unit)
    if not amount or amount >= MOST_BYTES:
        raise ConfigError(f"{key}={value}: expected a whole number of bytes above 0, as {key}=24576 or {key}=24KiB")
    return amount


def _exact(number: Decimal) -> int | None:
    return int(number) if number.adjusted() < MOST_DIGITS and number == number.to_integral_value() else None


def written(amount: float | Decimal) -> str:
    """Bytes for a person: `24 KiB` where that is exact or near enough, never more than four digits."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if amount >= size:
            return f"{amount / size:.4g} {unit}"
    return f"{amount:.4g} B"
