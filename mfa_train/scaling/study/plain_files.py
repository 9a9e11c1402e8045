"""What other people wrote, the files of a run or the names in them, within bounds: or ValueError in one line."""

import json
import zlib
from typing import Any

from mfa_train.archive import AnyPath

LARGEST_BYTES = 4 * 2**20
"""Of plan.json and summary.json: a thousand times what they have."""
MOST_SHOWN = 120
"""Characters of a name or a value of another's; what is longer ends in a number that tells it from others."""

LEFT = "\u00a0\u2028\u2029\u3000"
"""Spaces of kinds, which a page shows."""


def json_object(path: AnyPath) -> dict | None:
    """None where the file isn't there; raises ValueError for what is no JSON object. NaN and Infinity are None."""
    if not path.is_file():
        return None
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ValueError(f"{path.name}: {size:,} bytes, expected at most {LARGEST_BYTES:,}")
    try:
        found = json.loads(path.read_bytes().decode("utf-8"), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name}: no JSON object")
    return found


def shown(value: Any, most: int = MOST_SHOWN) -> str:
    """A name or value of another's as one line that any file, terminal and picture can hold: no control characters, no
    halves of characters, not too long, and different where it is different."""
    whole = str(value)
    if len(whole) <= most and whole.isprintable():
        return whole
    text = "".join(
        sign if sign.isprintable() or sign in LEFT else sign.encode("unicode_escape", "surrogatepass").decode()
        for sign in whole[:most]
    )
    if len(whole) <= most:
        return text
    return f"{text[:most]}…{zlib.crc32(whole.encode('utf-8', 'surrogatepass')):08x}"


def one_line(error: Exception) -> str:
    return shown(" ".join(str(error).split()) or type(error).__name__, 400)
