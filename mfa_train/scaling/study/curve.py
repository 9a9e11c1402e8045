"""metrics.jsonl as `compare` reads it: thinned to what a chart shows, and what it says of how the run was trained.

Every record is looked at once and none is held but those that are kept. One that is damaged costs itself alone.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mfa_train.archive import AnyPath
from mfa_train.tracking.records import lines, number, sound

FIELDS = {"tokens": 1e19, "flops": 1e36, "seconds": 1e12, "train/loss": 1e3, "val/loss": 1e3}
"""And the most that each can be: what is beyond, or below zero, is not drawn."""
POINTS = 160
"""Records of one run that are kept, about, and as many evaluations: more than a chart can show."""
LARGEST_BYTES = 2**30


@dataclass
class Curve:
    records: list[dict] = field(default_factory=list)
    last: dict = field(default_factory=dict)
    """As it stands there, every field."""
    damaged: int = 0
    """Records that could not be read; a last line that a kill tore is none."""
    off_rate: dict | None = None
    """The first record whose learning rate isn't the expected one: {step, lr, expected}."""


def read_curve(path: AnyPath, rate: Callable[[int], float] | None) -> Curve:
    """`rate` gives the learning rate of a step, the first being 0; None where it isn't known. Raises ValueError for a
    file too large to be one."""
    found = Curve()
    if not path.is_file():
        return found
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ValueError(f"{path.name}: {size:,} bytes, expected at most {LARGEST_BYTES:,}")
    kept: list[tuple[int, dict]] = []
    evaluations: deque[tuple[int, dict]] = deque(maxlen=POINTS)
    with path.open("rb") as file:
        stride = max(1, -(-sum(1 for _ in lines(file)) // POINTS))
        file.seek(0)
        index = 0
        for _, behind, line in lines(file):
            for _, _, record in sound(line):
                if record is None:
                    found.damaged += behind < size or line.endswith(b"\n")
                    continue
                found.last = record
                if rate is not None and found.off_rate is None:
                    found.off_rate = _off_rate(record, rate)
                if index % stride == 0:
                    kept.append((index, record))
                if "val/loss" in record:
                    evaluations.append((index, record))
                last = index, record
                index += 1
    if found.last:
        by_index = dict([*kept, *evaluations, last])
        found.records = [
            {key: _drawn(by_index[index].get(key), most) for key, most in FIELDS.items()} for index in sorted(by_index)
        ]
    return found


def _drawn(value: Any, most: float) -> float | None:
    return found if (found := number(value)) is not None and 0 <= found <= most else None


def _off_rate(record: dict, rate: Callable[[int], float]) -> dict | None:
    """A rate is logged with the number of steps done, the last of which had it."""
    step, logged = record.get("step"), number(record.get("lr"))
    if logged is None or not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= 10**15:
        return None
    expected = rate(step - 1)
    return (
        None
        if abs(logged - expected) <= 1e-6 * abs(expected) + 1e-15
        else {"step": step, "lr": logged, "expected": expected}
    )
