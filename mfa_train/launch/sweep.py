"""A sweep on this machine: its members one after another, or sweep.parallel at a time, each a process group of its own.

    1. Members that have finished are left out, and what can be known to fail for one is told before any is started.
    2. A member that fails is tried again sweep.retries times, behind the others; what still fails is told at the end.
    3. A ladder's branch starts when the run that it branches off has finished.
    4. Ctrl-C, SIGTERM and SIGUSR1 stop all members, which save first; a second Ctrl-C kills them. The same command goes
       on from there. A sweep that is killed itself takes its members along.

Several at a time share the machine: each gets its share of the cores, and cluster.devices_per_node GPUs of its own.
Their words go to NAME/logs/sweep.log.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mfa_train.config import Member
from mfa_train.errors import ConfigError, Stopped, TrainingError
from mfa_train.launch.checks import unfinished
from mfa_train.launch.family import dies_with
from mfa_train.run_files import LOGS
from mfa_train.tracking.terminal import say
from mfa_train.tracking.wandb_run import forget_run

STOPPED = (Stopped.exit_status, 130, -signal.SIGTERM, -signal.SIGUSR1, -signal.SIGKILL)
"""Statuses of a member that was asked to stop."""


@dataclass(eq=False)
class _Attempt:
    member: Member
    slot: int
    process: subprocess.Popen
    began: float = field(default_factory=time.monotonic)


def run_sweep(members: Sequence[Member], command: Sequence[str]) -> None:
    """Runs `command` with each member's overrides behind it. Raises ConfigError for what cannot work, TrainingError
    naming the members that failed, Stopped where it was asked to stop."""
    if "RANK" in os.environ:
        raise ConfigError("-m starts a process for each member itself: type it without torchrun, or one member with it")
    _require_shapes(members)
    left = unfinished(members)
    for member in members:
        if member not in left:
            say(f"=== {' '.join(member.swept)}: finished before, in {member.config.run_dir}")
    _Sweep(left, command).run()


class _Sweep:
    def __init__(self, members: list[Member], command: Sequence[str]):
        self.waiting = [(member, 0) for member in members]
        self.command = command
        self.parallel = (members[0].config.sweep.parallel or 1) if members else 1
        self.devices = _device_shares(members[0], self.parallel) if members and self.parallel > 1 else [None]
        self.free = list(range(self.parallel))
        self.running: dict[_Attempt, int] = {}
        self.asked: signal.Signals | None = None
        self.interrupts = 0
        self.stopped_at: list[str] = []
        self.failed: set[Path] = set()

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)
        failed = []
        while self.running or (self.waiting and not self.asked):
            while self.free and not self.asked and (ready := self._ready()):
                self.waiting.remove(ready)
                self._start(*ready)
            if not self.running:  # what is left waits for members that failed
                failed += [f"{' '.join(member.swept)} (not begun: {member.after} failed)" for member, _ in self.waiting]
                break
            time.sleep(0.05)
            for attempt, tries in [
                (attempt, tries) for attempt, tries in self.running.items() if attempt.process.poll() is not None
            ]:
                del self.running[attempt]
                self.free.append(attempt.slot)
                status = attempt.process.returncode
                self._tell(attempt, status)
                if status in STOPPED and (self.asked or status == Stopped.exit_status):
                    self.asked = self.asked or signal.SIGTERM
                    self.stopped_at.append(" ".join(attempt.member.swept))
                    self._ask()
                elif status and tries < attempt.member.config.sweep.retries:
                    self.waiting.append((attempt.member, tries + 1))
                elif status:
                    failed.append(" ".join(attempt.member.swept))
                    self.failed.add(attempt.member.config.run_dir)
        told = f"{len(failed)} of the sweep's members failed: {'; '.join(failed)}" if failed else ""
        if self.asked:
            at = "; ".join(self.stopped_at) or "its members' end"
            raise Stopped(f"the sweep, at {at}; the same command goes on from there{told and f'. {told}'}")
        if failed:
            raise TrainingError(told)

    def _ready(self) -> tuple[Member, int] | None:
        """The first that waits for no other."""
        unfinished = (
            {member.config.run_dir for member, _ in self.waiting}
            | {attempt.member.config.run_dir for attempt in self.running}
            | self.failed
        )
        return next((waiting for waiting in self.waiting if waiting[0].after not in unfinished), None)

    def _start(self, member: Member, tries: int) -> None:
        slot = self.free.pop(0)
        output, environment = None, dict(os.environ)
        forget_run(environment)
        again = f" (once more, {tries} of {member.config.sweep.retries})" if tries else ""
        if self.parallel > 1:
            path = member.config.run_dir / LOGS / "sweep.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            output, again = path.open("ab"), f"{again}: output in {path}"
            environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // self.parallel)))
            if self.devices[slot] is not None:
                environment["CUDA_VISIBLE_DEVICES"] = self.devices[slot]
        say(f"\n=== {' '.join(member.swept)}{again}")
        process = subprocess.Popen(
            [*self.command, *member.overrides],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
            preexec_fn=dies_with(os.getpid()),
        )
        self.running[_Attempt(member, slot, process)] = tries

    def _tell(self, attempt: _Attempt, status: int) -> None:
        if self.parallel > 1:
            came = {0: "finished", Stopped.exit_status: "stopped"}.get(status, f"failed (exit status {status})")
            seconds = time.monotonic() - attempt.began
            say(f"=== {' '.join(attempt.member.swept)}: {came} after {seconds:.0f} s")

    def _on_signal(self, number: int, _) -> None:
        self.asked, self.interrupts = signal.Signals(number), self.interrupts + (number == signal.SIGINT)
        self._ask()

    def _ask(self) -> None:
        for attempt in self.running:
            if attempt.process.poll() is None:
                attempt.process.send_signal(self._signal_for(attempt.member))

    def _signal_for(self, member: Member) -> signal.Signals:
        if member.config.cluster.launcher == "ssh":
            return self.asked  # it counts for itself: killed, it would leave its hosts training
        if self.interrupts > 1:
            return signal.SIGKILL
        return signal.SIGTERM if self.asked == signal.SIGINT else self.asked


def _device_shares(member: Member, parallel: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each slot; None where there are no GPUs. Raises ConfigError where they are too few."""
    import torch

    if not torch.cuda.is_available():
        return [None] * parallel
    each = member.config.cluster.devices_per_node
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    devices = visible.split(",")
    if parallel * each > len(devices):
        raise ConfigError(
            f"sweep.parallel={parallel}: {parallel} × {each} GPUs are needed and {len(devices)} are "
            f"here: type sweep.parallel={max(1, len(devices) // each)}"
        )
    return [",".join(devices[slot * each : (slot + 1) * each]) for slot in range(parallel)]


def _require_shapes(members: Sequence[Member]) -> None:
    """Raises ConfigError before the first member trains where `match` finds no shape for a later one."""
    wanted = [member.config for member in members if member.config.match.wanted]
    if wanted:
        from mfa_train.budget.match import matched

    seen = set()
    for config in wanted:
        shaped = str((config.model, config.attention, config.match, config.plan.cache_dtype))
        try:
            if shaped not in seen:
                matched(config)
        except ConfigError as error:
            raise ConfigError(f"{config.name}: {error}") from error
        seen.add(shaped)
