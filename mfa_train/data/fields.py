"""What the fields of a file that someone else may have written must be. Each check gives the value or raises
ValueError, naming the `field`."""

import math
import re
from typing import Any

MOST = 2**53
"""Of any count: more is no number of tokens, bytes or steps."""


def count(field: str, value: Any, least: int = 0, most: int = MOST) -> int:
    if type(value) is not int or not least <= value <= most:  # True is no count
        raise ValueError(f"{field} is {shown(value)}, expected a whole number from {least} to {most:,}")
    return value


def number(field: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{field} is {shown(value)}, expected a number")
    return value


def finite(field: str, value: Any) -> float:
    if not math.isfinite(number(field, value)) or value < 0:
        raise ValueError(f"{field} is {shown(value)}, expected a finite number of at least 0")
    return value


def _kind(field: str, value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{field} is {shown(value)}, expected {expected}")
    return value


def text(field: str, value: Any) -> str:
    return _kind(field, value, str, "text")


def mapping(field: str, value: Any) -> dict:
    return _kind(field, value, dict, "a mapping")


def listing(field: str, value: Any) -> list:
    return _kind(field, value, list, "a list")


def sha256(field: str, value: Any) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text(field, value), re.ASCII):
        raise ValueError(f"{field} is {shown(value)}, expected 64 hexadecimal digits")
    return value


def of(field: str, fields: dict, key: str) -> Any:
    if key not in fields:
        raise ValueError(f"{f'{field} lacks ' if field else 'it lacks '}{key}")
    return fields[key]


def shown(value: Any) -> str:
    """Short, and harmless on a terminal."""
    try:
        whole = ascii(value)
    except (ValueError, RecursionError):  # a number of too many digits; a list that never ends
        whole = type(value).__name__
    return whole if len(whole) <= 60 else f"{whole[:60]}…"
