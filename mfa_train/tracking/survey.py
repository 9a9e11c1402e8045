"""What of a file of JSON lines is damaged, found in one pass and bounded memory, and set aside: metrics.jsonl keeps its
sound records, metrics.jsonl.damaged gets the rest. Without room for that it stays where it is, and readers pass it
over.
"""

import contextlib
import os
import re
import shutil
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mfa_train.tracking.records import NEWLINE, SPACE, consistent, lines, parsed, sound, tokens_of

CHUNK = 2**20
SHOWN = 3
"""Line numbers that are named."""
NUMBER = rb"-?(?:0|[1-9]\d*+)(?:\.\d++)?(?:e[+-]\d++)?"
KEY = rb'"[^"\\\x00-\x1f\x7f-\xff]++"'
WRITTEN = re.compile(
    rb'\{"step": ([1-9]\d{0,17})(?:, "tokens": ([1-9]\d{0,17}))?'
    rb"(?:, " + KEY + rb": (?>" + NUMBER + rb"|null))*+\}\n"
)
"""A record as this version writes it: found to be sound in half the time that parsing takes."""

TORN = re.compile(rb'\{(?:"step": (\d{1,18}),)?')

Stretch = tuple[int, int]
"""(start, end) in bytes."""


class Survey:
    """What a metrics.jsonl holds: the records that are sound by themselves, which of them are `kept`, the `last` of
    their steps, and what is `damaged`. `saved`: the last step that a checkpoint holds."""

    def __init__(self, path: Path, saved: int = 0):
        self.path, self.damaged = path, []
        self.steps, self.ends, tokens, begins = (array("q") for _ in range(4))

        def add(step: int, count: int, start: int, end: int) -> None:
            self.steps.append(step)
            tokens.append(count)
            begins.append(start)
            self.ends.append(end)

        with path.open("rb") as file:
            for place, behind, line in lines(file):
                if found := WRITTEN.fullmatch(line):
                    add(int(found[1]), int(found[2] or 0), place, behind)
                    continue
                for start, end, record in sound(line):
                    if record:
                        if start and self.ends and self.ends[-1] == place + start:  # the newline between them is lost
                            self.damaged.append((place + start, place + start))
                        add(record["step"], tokens_of(record), place + start, place + end)
                    elif line.endswith(NEWLINE) or not _torn(line[start:end], saved):
                        self.damaged.append((place + start, behind if end == len(line) else place + end))
        self.kept = consistent(self.steps, tokens)
        """Of the records, by their places in these lists."""
        if len(self.kept) < len(begins):
            left_out = set(range(len(begins))) - set(self.kept)
            self.damaged = sorted([*self.damaged, *((begins[index], self.ends[index]) for index in left_out)])
        self.last = self.steps[self.kept[-1]] if self.kept else 0

    def copied(self, step: int) -> Iterator[bytes]:
        """The lines of the sound records up to `step`, many at a time."""
        count = bisect_right(self.kept, step, key=self.steps.__getitem__)
        end = self.ends[self.kept[count - 1]] if count else 0
        return _blocks(self.path, _between([stretch for stretch in self.damaged if stretch[1] <= end], end))


def _torn(line: bytes, saved: int) -> bool:
    """Whether a kill can have left `line` as the last one: begun, not ended, and not of a step up to `saved`, whose
    record the disk had before its checkpoint."""
    step = TORN.match(line)
    if step is None or b"}" in line or b"\0" in line:
        return False
    return not (step[1] and int(step[1]) <= saved)


def damaged_lines(path: Path) -> list[Stretch]:
    """The lines of any file of JSON lines that are no object."""
    with path.open("rb") as file:
        return [(start, end) for start, end, line in lines(file) if line.strip(SPACE) and parsed(line) is None]


def set_aside(path: Path, damaged: list[Stretch], kept: str, say: Callable[[str], None]) -> None:
    """Moves the stretches to NAME.damaged and says so; `kept` is what is said of the rest."""
    what = f"{path}: {_which(path, damaged)} damaged"
    path = path.resolve()
    aside, partial = (path.with_name(f"{path.name}.{end}") for end in ("damaged", "partial"))
    try:
        size = path.stat().st_size
        _copy(path, damaged, aside, "ab")
        _copy(path, _between(damaged, size), partial, "wb")
        shutil.copymode(path, partial)
        os.replace(partial, path)
        say(f"warning: {what}: set aside in {aside.name}; {kept}")
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        say(f"warning: {what}: passed over, and left where it is ({error.strerror}); {kept}")


def _between(stretches: list[Stretch], size: int) -> Iterator[Stretch]:
    done = 0
    for start, end in [*stretches, (size, size)]:
        if done < start:
            yield done, start
        done = end


def _copy(source: Path, stretches: Iterable[Stretch], target: Path, mode: str) -> None:
    with target.open(mode) as out:
        out.writelines(_blocks(source, stretches))
        out.flush()
        os.fsync(out.fileno())


def _blocks(path: Path, stretches: Iterable[Stretch]) -> Iterator[bytes]:
    """What is in the stretches of a file; each ends with a newline."""
    with path.open("rb") as file:
        for start, end in stretches:
            file.seek(start)
            last = b""
            while start < end and (block := file.read(min(CHUNK, end - start))):
                yield block
                start, last = start + len(block), block
            if last and not last.endswith(NEWLINE):
                yield NEWLINE


def _which(path: Path, stretches: list[Stretch]) -> str:
    numbers, number, place = [], 1, 0
    with path.open("rb") as file:
        for start, _ in stretches[:SHOWN]:
            while place < start and (block := file.read(min(CHUNK, start - place))):
                number, place = number + block.count(NEWLINE), place + len(block)
            numbers.append(str(number))
    more = f" and {len(stretches) - SHOWN} more" if len(stretches) > SHOWN else ""
    one = len(stretches) == 1
    return f"{'line' if one else 'lines'} {', '.join(numbers)}{more} {'is' if one else 'are'}"
