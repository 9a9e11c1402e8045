"""metrics.jsonl as `compare` reads it: thinned to what a chart shows, and what it says of how the run was trained.

Every record is looked at once and none is held but those that are kept. One that is damaged costs itself alone.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfa_train.scaling.plain_files import number

FIELDS = {"tokens": 1e19, "flops": 1e36, "seconds": 1e12, "train/loss": 1e3, "val/loss": 1e3}
"""And the most that each can be: what is beyond, or below zero, is not drawn."""
POINTS = 160
"""Records of one run that are kept, about, and as many evaluations: more than a chart can show."""
LARGEST_BYTES = 2**30
LONGEST_LINE = 2**20


@dataclass
class Curve:
    records: list[dict] = field(default_factory=list)
    last: dict = field(default_factory=dict)
    """As it stands there, every field."""
    damaged: int = 0
    """Records that could not be read; a last line that a kill tore is none."""
    off_rate: dict | None = None
    """The first record whose learning rate isn't the expected one: {step, lr, expected}."""


def read_curve(path: Path, rate: Callable[[int], float] | None) -> Curve:
    """`rate` gives the learning rate of a step, the first being 0; None where it isn't known. Raises ValueError for a file too
    large to be one."""
    found = Curve()
    if not path.is_file():
        return found
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ValueError(f"{path.name}: {size:,} bytes, expected at most {LARGEST_BYTES:,}")
    lines = sum(1 for _ in _lines(path))
    stride = max(1, -(-lines // POINTS))
    kept: list[tuple[int, dict]] = []
    evaluations: deque[tuple[int, dict]] = deque(maxlen=POINTS)
    for index, line in enumerate(_lines(path)):
        record = _record(line)
        if record is None:
            found.damaged += index < lines - 1 or line.endswith(b"\n")
            continue
        found.last = record
        if rate is not None and found.off_rate is None:
            found.off_rate = _off_rate(record, rate)
        if index % stride == 0:
            kept.append((index, record))
        if "val/loss" in record:
            evaluations.append((index, record))
        last = index, record
    if found.last:
        by_index = dict([*kept, *evaluations, last])
        found.records = [{key: _drawn(by_index[index].get(key), most) for key, most in FIELDS.items()} for index in sorted(by_index)]
    return found


def _drawn(value: Any, most: float) -> float | None:
    return found if (found := number(value)) is not None and 0 <= found <= most else None


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            yield line


def _record(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _off_rate(record: dict, rate: Callable[[int], float]) -> dict | None:
    """A rate is logged with the number of steps done, the last of which had it."""
    step, logged = record.get("step"), number(record.get("lr"))
    if logged is None or not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= 10**15:
        return None
    expected = rate(step - 1)
    return None if abs(logged - expected) <= 1e-6 * abs(expected) + 1e-15 else {"step": step, "lr": logged, "expected": expected}
