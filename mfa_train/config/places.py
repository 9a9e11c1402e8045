"""Where things lie: folders and files of this machine, with ~ for a home folder, and, for some keys, URLs."""

import os
import re
from typing import Any

from mfa_train.errors import ConfigError
from mfa_train.words import printable

PATH_BYTES, PART_BYTES = 3500, 255
"""Linux takes 4096 bytes of a path; something is put behind it."""


def place(key: str, value: str) -> str:
    """A path with ~ and ~USER expanded, or a URL as it is. Raises ConfigError for what can be neither."""
    if not isinstance(value, str):
        raise ConfigError(f"{key}: expected a path or a URL")
    if not value or not value.isprintable():
        raise ConfigError(f"{key}={printable(value)}: expected a path of characters that a terminal shows")
    if "://" in value or "::" in value:
        return value
    if value.startswith("~"):
        value = _from_home(key, value)
    parts = [len(part.encode()) for part in value.split("/")]
    if max(parts) > PART_BYTES or sum(parts) > PATH_BYTES:
        raise ConfigError(
            f"{key}={value[:60]}…: a path of {sum(parts)} bytes is too long: file systems take {PART_BYTES} for a name "
            f"and {PATH_BYTES} for the whole"
        )
    return value


def local(key: str, value: str, what: str = "folder") -> str:
    """A path of this machine with ~ expanded. Raises ConfigError for a URL."""
    if re.match(r"[A-Za-z][\w+.-]*:/|[^/]*::", value):
        raise ConfigError(f"{key}={value}: expected a {what} of this machine, as a path, and no URL")
    return place(key, value)


def _from_home(key: str, value: str) -> str:
    expanded = os.path.expanduser(value)
    if expanded.startswith("~") or not os.path.isabs(expanded):
        raise ConfigError(
            f"{key}={value}: no home folder of {value.split('/')[0]} is known here: type the path in full, or "
            f"./{value} "
            "for a folder of that name"
        )
    return expanded


def in_mapping(key: str, value: Any) -> Any:
    """`place` of every string in a list or a mapping's values."""
    if isinstance(value, dict):
        return {name: place(f"{key}.{name}", one) for name, one in value.items()}
    return [place(key, one) for one in value]
