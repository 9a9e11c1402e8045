"""Where a step's time goes, the memory at its peak, and the slowest rank: what the records tell of a run's health.

Nothing waits for it. On a GPU the phases end with events on its stream, which are read when a record has waited for the
device anyway; what each rank has to say goes with the losses, in their one collective.
"""

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mfa_train.training.processes.ranks import Ranks

DATA, FORWARD, BACKWARD, OPTIMIZER = "data", "forward", "backward", "optimizer"
PHASES = (DATA, FORWARD, BACKWARD, OPTIMIZER)
"""Waiting for samples; the passes; the reduction of gradients, their norm and the update."""
WAITED = "waited"
"""In forward passes for other ranks: a part of FORWARD."""
STRAGGLER, RECORDS = 1.25, 3
"""A rank whose own work takes so many times the median's, in so many records one behind the other, is told by its
host."""
MOST_EVENTS = 4096
"""That wait to be read: of a run that logs seldom, or of ZeRO 3's fetches, they would pile up on the device."""


class Phases:
    """Times the steps of this rank. Up to the end of the forward pass all is a rank's own work, by which the slowest is
    known, but for what `wait_in_pass` is told of."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.on_gpu = ranks.device.type == "cuda"
        self.last: Any = None
        """When the phase under way began: seconds, or an event."""
        self.events: list[tuple[str, Any, Any]] = []
        """Phases whose time isn't read yet."""
        self.steps, self.seconds = 0, dict.fromkeys((*PHASES, WAITED), 0.0)
        self.in_forward = False
        self.slow: tuple[int | None, int] = (None, 0)
        """Which rank has been slow in how many records up to here."""

    def begin(self) -> None:
        """A step begins."""
        self.steps += 1
        if len(self.events) > MOST_EVENTS:
            self._read()
        self.last = self._now()

    def end(self, phase: str) -> None:
        """`phase` ends here, and the next begins."""
        now = self._now()
        self._add(phase, self.last, now)
        self.last = now
        self.in_forward = phase == DATA

    def wait_in_pass(self, waiting: Callable[[], None]) -> None:
        """Calls `waiting`, in which the device waits for other ranks. Counted in the forward passes of steps."""
        begun = self._now() if self.in_forward else None
        waiting()
        if begun is not None:
            self._add(WAITED, begun, self._now())

    def of_this_rank(self) -> list[float]:
        """What the other ranks are told of the steps since the last record: own seconds a step, peak bytes. Read while
        the last update may be under way."""
        self._read()
        own = self.seconds[DATA] + self.seconds[FORWARD] - self.seconds[WAITED]
        return [own / max(1, self.steps), self._peak_bytes()]

    def take(self, by_rank: Sequence[Sequence[float]]) -> dict[str, float]:
        """For a record, which has waited for the device: seconds a step of this rank since the last one, and of what
        each rank has told the peak and the slowest."""
        self._read()
        steps, seconds = max(1, self.steps), self.seconds
        self.steps, self.seconds = 0, dict.fromkeys((*PHASES, WAITED), 0.0)
        own, peaks = zip(*by_rank)
        return {
            **{f"time/{phase}_seconds": seconds[phase] / steps for phase in PHASES},
            "memory/peak_bytes": int(max(peaks)),
            **(self._slowest(own) if len(own) > 1 else {}),
        }

    def _slowest(self, own: Sequence[float]) -> dict[str, float]:
        rank = max(range(len(own)), key=own.__getitem__)
        ratio = own[rank] / max(statistics.median_low(own), 1e-9)
        before, records = self.slow
        self.slow = (None, 0) if ratio <= STRAGGLER else (rank, records + 1 if rank == before else 1)
        if self.slow[1] == RECORDS and len(own) > 2:
            self.ranks.say(
                f"warning: rank {rank} on {self.ranks.host_of(rank)} is slow: its own work takes {ratio:.2f} times the "
                "median rank's, and every step waits for it"
            )
        return {"ranks/slowest": rank, "ranks/slowest_ratio": ratio}

    def _add(self, phase: str, begun: Any, ended: Any) -> None:
        if self.on_gpu:
            self.events.append((phase, begun, ended))
        else:
            self.seconds[phase] += ended - begun

    def _read(self) -> None:
        """Adds up the phases whose events the device has passed."""
        waiting = []
        for phase, begun, ended in self.events:
            if ended.query():
                self.seconds[phase] += begun.elapsed_time(ended) / 1000
            else:
                waiting.append((phase, begun, ended))
        self.events = waiting

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _peak_bytes(self) -> float:
        """Of a GPU what torch had allocated at most since the last record; of a CPU the process's, since it began."""
        if not self.on_gpu:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak
