"""What torch's profiler records of one rank's steps, and of a GPU's memory meanwhile."""

import contextlib
import gzip
import os
import shutil
import warnings
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

WARMUP = 1
"""Steps before the first that is recorded: the profiler's own start is slow."""
MEMORY_EVENTS = 10**6
"""The most allocations and frees that a snapshot holds, the last ones."""
COMPRESSION = 5


class Trace:
    """Of this process: `WARMUP` steps that are thrown away, then `steps`. `first` is the first one's number."""

    def __init__(self, first: int, steps: int, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.left = WARMUP + steps
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.on_gpu else [])]
        self.profiler = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=WARMUP, active=steps, repeat=1),
            record_shapes=True,
            profile_memory=True,
        )
        self.first, self.steps = first, steps

    def begin(self) -> None:
        """The next step is the one before the first."""
        if self.on_gpu:
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS, stacks="python", clear_history=True)
        self.profiler.start()
        self.profiler.add_metadata("steps", f"{self.first} to {self.first + self.steps - 1}")

    def step(self) -> bool:
        """A step is over; whether it was the last."""
        self.left -= 1
        if self.left:
            self.profiler.step()
        else:
            self.profiler.stop()
        return not self.left

    def abandon(self) -> None:
        """Ends it before its last step, with nothing to write."""
        for end in (self._end_memory_history, self.profiler.stop):
            with contextlib.suppress(Exception):  # what it could not do is told already
                end()

    def write(self, folder: Path, rank: int) -> Path:
        """Writes it into `folder`, the trace not compressed yet, and gives that one. Raises OSError, RuntimeError."""
        folder.mkdir(parents=True, exist_ok=True)
        raw = folder / f"rank-{rank}.json"
        with warnings.catch_warnings(action="ignore"):
            self.profiler.export_chrome_trace(str(raw))
        if not raw.is_file():  # which the profiler only logs
            raise OSError(f"{raw} could not be written")
        if self.on_gpu:
            torch.cuda.memory._dump_snapshot(str(folder / memory_of(rank)))
            self._end_memory_history()
        return raw

    def _end_memory_history(self) -> None:
        if self.on_gpu:
            torch.cuda.memory._record_memory_history(enabled=None)


def memory_of(rank: int) -> str:
    """The file of a rank's memory snapshot."""
    return f"rank-{rank}-memory.pickle"


def compressed(raw: Path) -> Path:
    """`raw` as a gzip file beside, in its place. Raises OSError."""
    path = raw.with_name(f"{raw.name}.gz")
    beside = path.with_name(f"{path.name}.partial")
    with raw.open("rb") as file, gzip.open(beside, "wb", compresslevel=COMPRESSION) as packed:
        shutil.copyfileobj(file, packed, 2**20)
    os.replace(beside, path)
    raw.unlink()
    return path
