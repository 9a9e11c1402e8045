"""Quantities as people write them: `24KiB`."""

import re
from typing import Any

from mfa_train.errors import ConfigError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def bytes_of(key: str, value: Any) -> int:
    """A number of bytes from 24576, "24576", "24KiB" (1,024 each) or "24KB" (1,000 each). Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([a-z]*)", str(value).strip(), re.IGNORECASE)
    amount = float(found[1]) * UNITS.get(found[2].upper(), 0) if found else 0
    if not 1 <= amount < float("inf") or amount != int(amount):
        raise ConfigError(f"{key}={value}: expected a whole number of bytes above 0, as {key}=24576 or {key}=24KiB")
    return int(amount)


def written(amount: float) -> str:
    """Bytes for a person: `24 KiB` where that is exact or near enough, never more than four digits."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if amount >= size:
            return f"{amount / size:.4g} {unit}"
    return f"{amount:.4g} B"
