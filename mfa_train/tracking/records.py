"""The records of a metrics.jsonl as a kill, a power cut or a bad disk can leave them: a damaged one costs itself alone.

Damaged is what is no JSON object in UTF-8, has no `step` that is a whole number from 1 on, contradicts the other
records (its `tokens` are not `step` × the tokens of a step as most have it, or its step does not rise among theirs), or
is longer than LONGEST. Records that lost the newline between them are told apart again. What a flip makes of a number
that nothing contradicts cannot be seen.
"""

import json
import math
import re
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

from mfa_train.archive import AnyPath

LONGEST = 2**22
"""Bytes of a line: a record of 20,000 corpora has no more."""
BLOCK = 2**16
NEWLINE = b"\n"
SPACE = b" \t\r\n"
LINE = re.compile(rb"[^\n]*\n|[^\n]+")
BEGIN = b'{"step":'
DECODER = json.JSONDecoder(parse_constant=lambda _: None)
"""NaN and Infinity are no JSON; older versions wrote them."""


def as_json(value: Any, indent: int | None = None) -> str:
    """The value as JSON that every reader takes: null where a number is not finite."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def parsed(text: bytes) -> dict | None:
    """The JSON object that is all of `text`; None where it is anything else."""
    try:
        found = DECODER.decode(text.decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_object(path: AnyPath) -> dict | None:
    """The JSON object that a file is; None where it is none, or larger than one of a run's can be. Raises OSError."""
    with path.open("rb") as file:
        return parsed(file.read(LONGEST))


def number(value: Any) -> float | None:
    """A finite number as it stands; None for anything else, text and truth included."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return value if abs(value) <= sys.float_info.max else None


def sound(line: bytes) -> Iterator[tuple[int, int, dict | None]]:
    """(start, end, record) of what stands in a line: one record, several where newlines are lost; None for damage."""
    whole = line.strip(SPACE)
    if not whole:
        return
    record = _record(whole)
    cuts = [0] if record else sorted({0, *_places(line)})
    for start, end in zip(cuts, [*cuts[1:], len(line)]):
        yield start, end, record or _record(line[start:end].strip(SPACE))


def tokens_of(record: dict) -> int:
    """The tokens of a record; 0 where it tells none."""
    tokens = record.get("tokens")
    return tokens if type(tokens) is int and 0 < tokens < 2**63 else 0


def consistent(steps: Sequence[int], tokens: Sequence[int]) -> Sequence[int]:
    """Which records to keep, by their steps and tokens (0: none told): the most that agree on the tokens of a step, and
    whose steps rise."""
    kept: Sequence[int] = range(len(steps))
    ratios = Counter(count // step if count % step == 0 else 0 for step, count in zip(steps, tokens))
    ratio, agreeing = ratios.most_common(1)[0] if ratios else (0, 0)
    if ratio and len(steps) / 2 < agreeing < len(steps):
        kept = [index for index in kept if tokens[index] == ratio * steps[index]]
    if all(steps[one] < steps[later] for one, later in pairwise(kept)):
        return kept
    return _rising(kept, steps)


def records(path: AnyPath) -> Iterator[dict]:
    """The records of a metrics.jsonl that are sound by themselves, one after the other."""
    with path.open("rb") as file:
        for _, _, line in lines(file):
            yield from (record for _, _, record in sound(line) if record)


def consistent_records(found: list[dict]) -> list[dict]:
    """The records that do not contradict most of the others."""
    return [found[index] for index in consistent([record["step"] for record in found], list(map(tokens_of, found)))]


def last_records(path: AnyPath, count: int) -> list[dict]:
    """The last `count` sound records of a metrics.jsonl, found from its end, in the last LONGEST bytes."""
    found: list[dict] = []
    with path.open("rb") as file:
        for _, line in backwards(file, LONGEST):
            found += [record for _, _, record in reversed(list(sound(line))) if record]
            if len(found) >= count + 8:  # some more: one of them may contradict the others
                break
    return consistent_records(found[::-1])[-count:]


def lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """(start, end, line) from the first on; of one above LONGEST a stretch that cannot be sound."""
    start = 0
    while line := file.readline(LONGEST):
        end = start + len(line)
        if len(line) == LONGEST and not line.endswith(NEWLINE):
            while not line.endswith(NEWLINE) and (line := file.readline(LONGEST)):
                end += len(line)
            line = b"\0"
        yield start, end, line
        start = end


def backwards(file: BinaryIO, within: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(start, line) from the last on, of the last `within` bytes; of one above LONGEST a stretch that cannot be
    sound."""
    start, rest, beyond = file.seek(0, 2), b"", b"\0" + NEWLINE
    least = 0 if within is None else max(0, start - within)
    while start > least:
        size = min(BLOCK, start)
        start -= size
        file.seek(start)
        first, *whole = LINE.findall(file.read(size) + rest)
        yield from reversed(list(zip(accumulate(map(len, whole), initial=start + len(first)), whole)))
        rest = beyond if len(first) > LONGEST or (rest is beyond and not whole) else first
    if rest and not start:
        yield 0, rest


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _record(text: bytes) -> dict | None:
    record = parsed(text)
    step = record.get("step") if record else None
    return record if type(step) is int and 1 <= step < 2**63 else None


def _places(line: bytes) -> Iterator[int]:
    """Where records begin in a line."""
    place = line.find(BEGIN)
    while place >= 0:
        yield place
        place = line.find(BEGIN, place + 1)


def _rising(candidates: Sequence[int], steps: Sequence[int]) -> list[int]:
    """The longest selection whose steps rise; of equal steps the last."""
    smallest: list[int] = []  # of the last steps of selections of one length, by the length
    ends: list[int] = []
    before: dict[int, int | None] = {}
    for index in candidates:
        place = bisect_left(smallest, steps[index])
        before[index] = ends[place - 1] if place else None
        smallest[place : place + 1], ends[place : place + 1] = [steps[index]], [index]
    chosen: list[int] = []
    last = ends[-1] if ends else None
    while last is not None:
        chosen.append(last)
        last = before[last]
    return chosen[::-1]
