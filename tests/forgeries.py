"""Every field of a file that someone else may have written, changed to what it can't be."""

import copy
from collections.abc import Iterator
from typing import Any

ODD = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "../x",
    "/etc/passwd",
    "x\n\x1b[31m",
    "\0",
    "s3://b/x",
    "\ud800",
    [],
    {},
    [None],
    {"a": 1},
    "0" * 64,
    "uint16",
    "float64",
]
"""What a field may be changed to."""


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Of every field, however deep; of lists the first item."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, inside in items:
        yield from places(inside, (*path, key))


def changed(manifest: dict, path: tuple, value: Any) -> dict:
    """With the field at `path` of that value; `places` removes it."""
    forged = copy.deepcopy(manifest)
    inside = forged
    for key in path[:-1]:
        inside = inside[key]
    if value is places:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return forged
