"""What the fields of a file that someone else may have written must be. Each check gives the value or raises
ValueError, naming the field."""

import math
import re
from typing import Any

MOST = 2**53
"""Of any count: more is no number of tokens, bytes or steps."""


def count(told: str, value: Any, least: int = 0, most: int = MOST) -> int:
    if type(value) is not int or not least <= value <= most:  # True is no count
        raise ValueError(f"{told} is {shown(value)}, expected a whole number from {least} to {most:,}")
    return value


def number(told: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{told} is {shown(value)}, expected a number")
    return value


def finite(told: str, value: Any) -> float:
    if not math.isfinite(number(told, value)) or value < 0:
        raise ValueError(f"{told} is {shown(value)}, expected a finite number of at least 0")
    return value


def _kind(told: str, value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{told} is {shown(value)}, expected {expected}")
    return value


def text(told: str, value: Any) -> str:
    return _kind(told, value, str, "text")


def mapping(told: str, value: Any) -> dict:
    return _kind(told, value, dict, "a mapping")


def listing(told: str, value: Any) -> list:
    return _kind(told, value, list, "a list")


def sha256(told: str, value: Any) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text(told, value), re.ASCII):
        raise ValueError(f"{told} is {shown(value)}, expected 64 hexadecimal digits")
    return value


def of(told: str, fields: dict, key: str) -> Any:
    if key not in fields:
        raise ValueError(f"{f'{told} lacks ' if told else 'it lacks '}{key}")
    return fields[key]


def shown(value: Any) -> str:
    """Short, and harmless on a terminal."""
    try:
        told = ascii(value)
    except (ValueError, RecursionError):  # a number of too many digits; a list that never ends
        told = type(value).__name__
    return told if len(told) <= 60 else f"{told[:60]}…"
