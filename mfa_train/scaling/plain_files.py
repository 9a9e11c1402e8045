"""The files of a run, read as a stranger's: plain data, within bounds of size, depth and value, or ValueError in one line."""

import contextlib
import datetime
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import yaml

from mfa_train.config.typed import flat

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST_BYTES = 4 * 2**20
"""Of config.yaml, plan.json, summary.json: a thousand times what they have."""
DEEPEST = 20
MOST_SHOWN = 120
"""Characters of a name or a value of another's; what is longer ends in a number that tells it from others."""

LEFT = "\u00a0\u2028\u2029\u3000"
"""Spaces of kinds, which a page shows."""


def plain_yaml(text: bytes, name: str) -> dict[str, Any]:
    """Keys dotted, values null, truth values, numbers, strings and lists; no aliases, which make a small file a large one."""
    if len(text) > LARGEST_BYTES:
        raise ValueError(f"{name}: {len(text):,} bytes, expected at most {LARGEST_BYTES:,}")
    try:
        depth = 0
        for event in yaml.parse(text, Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
                raise ValueError(f"{name}: expected plain keys with values, without aliases and {DEEPEST} deep at most")
        tree = yaml.load(text, Loader)
    except (yaml.YAMLError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{name}: {one_line(error)}") from None
    if not isinstance(tree, dict) or not tree:
        raise ValueError(f"{name}: no keys with values")
    return flat(_plain(tree, name))


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(_plain(key, name)): _plain(below, name) for key, below in value.items()}
    if isinstance(value, list):
        return [_plain(one, name) for one in value]
    if isinstance(value, datetime.date):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{name}: holds a {type(value).__name__}, expected plain keys with values")


def json_object(path: Path) -> dict | None:
    """None where the file isn't there; raises ValueError for what is no JSON object. NaN and Infinity are None."""
    if not path.is_file():
        return None
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ValueError(f"{path.name}: {size:,} bytes, expected at most {LARGEST_BYTES:,}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name}: no JSON object")
    return found


def at_home(path: Path) -> Path:
    """~ is the home folder, unless a folder of that name lies here."""
    with contextlib.suppress(RuntimeError, OSError, ValueError):  # of no such user
        if str(path).startswith("~") and not path.exists():
            return path.expanduser()
    return path


def number(value: Any) -> float | None:
    """Python's JSON reads NaN, Infinity and integers that no float holds; none is a result."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return value if -sys.float_info.max <= value <= sys.float_info.max else None


def shown(value: Any, most: int = MOST_SHOWN) -> str:
    """A name or value of another's as one line that any file, terminal and picture can hold: no control characters, no halves
    of characters, not too long, and different where it is different."""
    whole = str(value)
    if len(whole) <= most and whole.isprintable():
        return whole
    text = "".join(sign if sign.isprintable() or sign in LEFT else
                   sign.encode("unicode_escape", "surrogatepass").decode() for sign in whole[:most])
    if len(whole) <= most:
        return text
    return f"{text[:most]}…{zlib.crc32(whole.encode('utf-8', 'surrogatepass')):08x}"


def one_line(error: Exception) -> str:
    return shown(" ".join(str(error).split()) or type(error).__name__, 400)
