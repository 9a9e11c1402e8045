"""A rank that stands still ends the job, with the last words of all that can speak.

A thread of each rank looks at when the last step ended. After guard.hang_seconds without one it prints every thread's
stack and how far each rank had come, has every rank that can write its stacks to logs/, and ends the process; the
launcher ends the others. A rank that hangs leaves the others waiting in a collective, so their watchdogs speak even
where its own cannot.

It watches from before the first step on, compilation and the first shards from afar included; an evaluation pass counts
as a step. Until then, while a corpus is prepared and the engine built, the process group's own timeout holds.
"""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from mfa_train.errors import HUNG_STATUS
from mfa_train.tracking.terminal import unbroken
from mfa_train.training.processes.ranks import Ranks

OTHERS_SECONDS = 2.0
"""That the other ranks have to write their stacks down, when this one has told them."""
HANGS = "hangs"
"""Key of the ranks' store that says so."""


class Watchdog:
    """Watches while it is entered. `alive(step)` is called after every step, and around what may take as long as
    many."""

    def __init__(self, ranks: Ranks, seconds: float, logs: Path):
        self.ranks, self.seconds, self.logs = ranks, seconds, logs
        self.dumped = False
        self.step, self.at = 0, time.monotonic()
        self.ended = threading.Event()

    def __enter__(self) -> "Watchdog":
        self.at = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()

    def alive(self, step: int) -> None:
        self.step, self.at = step, time.monotonic()

    def _watch(self) -> None:
        self._post()
        while not self.ended.wait(min(1.0, self.seconds / 10)):
            self._post()
            if self._told():
                self._dump()
            if time.monotonic() - self.at > self.seconds and not self.ended.is_set():
                self._end()

    def _post(self) -> None:
        """Tells the other ranks' watchdogs how far this rank is."""
        if self.ranks.world_size > 1:
            try:
                self.ranks.store.set(f"alive/{self.ranks.rank}", f"{self.step} {time.time()}")
            except dist.DistError:  # rank 0's host has gone: the steps will find out
                pass

    def _told(self) -> bool:
        """Whether another rank's watchdog has fired."""
        try:
            return not self.dumped and self.ranks.world_size > 1 and self.ranks.store.check([HANGS])
        except dist.DistError:
            return False

    def _dump(self) -> None:
        """Writes the stacks of this rank's threads behind those of earlier starts, once."""
        self.dumped = True
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            with (self.logs / f"stacks-rank-{self.ranks.rank:05}.txt").open("a", encoding="utf-8") as file:
                print(f"=== {time.strftime('%Y-%m-%dT%H:%M:%S%z')} after step {self.step}", file=file, flush=True)
                faulthandler.dump_traceback(file)
            if self.ranks.device.type == "cuda":  # in a thread: it may wait for what hangs
                threading.Thread(target=self._dump_nccl, daemon=True).start()
        except OSError as error:
            print(f"warning: {error}", file=sys.stderr)

    def _dump_nccl(self) -> None:
        """Writes NCCL's flight recorder (the last collectives) down, where it can. The name ends in the rank, as
        torch's fr_trace wants it: `python -m torch.distributed.flight_recorder.fr_trace LOGS --prefix nccl-rank-`."""
        try:
            dump = torch._C._distributed_c10d._dump_nccl_trace  # type: ignore[attr-defined]  # in builds with NCCL
            (self.logs / f"nccl-rank-{self.ranks.rank:05}").write_bytes(dump())
        except Exception as error:  # last words are no place to fail
            print(f"warning: no NCCL trace: {error!r}", file=sys.stderr)

    def _tell_others(self) -> None:
        if self.ranks.world_size > 1:
            try:
                self.ranks.store.set(HANGS, str(self.ranks.rank))
            except dist.DistError:
                return
            time.sleep(OTHERS_SECONDS)

    def _end(self) -> None:
        """Prints the last words and ends this process."""
        message = (
            f"rank {self.ranks.rank}: error: no step ended for {self.seconds:.0f} s (guard.hang_seconds); step "
            f"{self.step} was the last. {self._others()}Where this rank stands:"
        )
        unbroken(sys.stderr, lambda: print(message, file=sys.stderr, flush=True))
        faulthandler.dump_traceback()
        self._dump()
        self._tell_others()
        os._exit(HUNG_STATUS)

    def _others(self) -> str:
        """How far the ranks had come that have fallen behind or silent."""
        lines = []
        for rank in range(self.ranks.world_size if self.ranks.world_size > 1 else 0):
            try:
                if not self.ranks.store.check([f"alive/{rank}"]):
                    lines.append(f"rank {rank} was never heard of")
                    continue
                step, at = self.ranks.store.get(f"alive/{rank}").split()
            except dist.DistError:
                return "The ranks' store cannot be reached. "
            silent = time.time() - float(at)
            if int(step) < self.step or silent > max(5.0, self.seconds / 2):
                lines.append(f"rank {rank} was last heard of {silent:.0f} s ago, after step {int(step)}")
        return "; ".join(lines) + ". " if lines else ""
