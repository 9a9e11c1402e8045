"""A sweep on this machine: its members one after another, or sweep.parallel at a time, each a process group of its own.

    1. Members that have finished are left out, and what can be known to fail for one is told before any is started.
    2. A member that fails is tried again sweep.retries times, behind the others; what still fails is told at the end.
    3. A ladder's branch starts when the run that it branches off has finished.
    4. Ctrl-C, SIGTERM and SIGUSR1 stop all members, which save first; a second Ctrl-C kills them. The same command goes
       on from there. A sweep that is killed itself takes its members along.
    5. However it ends: a table of the losses, and the command that compares them (sweep_table.py).

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
from mfa_train.launch.sweep_table import FAILED, FINISHED, NOT_BEGUN, STOPPED, sweep_ending
from mfa_train.run_files import LOGS
from mfa_train.tracking.terminal import say
from mfa_train.tracking.wandb_run import forget_run

STOPPED_STATUSES = (Stopped.exit_status, 130, -signal.SIGTERM, -signal.SIGUSR1, -signal.SIGKILL)
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
    _require_settings(left)
    for member in members:
        if member not in left:
            say(f"=== {' '.join(member.swept)}: finished before, in {member.config.run_dir}")
    sweep = _Sweep(left, command)
    sweep.run()
    say("\n" + sweep_ending(members, {member.config.run_dir: sweep.state(member) for member in members}))
    sweep.require_success()


class _Sweep:
    """The members that are left, as they wait, run and end."""

    def __init__(self, members: list[Member], command: Sequence[str]):
        self.members = members
        self.waiting = [(member, 0) for member in members]
        """Each with how often it was tried."""
        self.command = command
        self.parallel = (members[0].config.sweep.parallel or 1) if members else 1
        self.devices = device_shares(members[0], self.parallel) if members and self.parallel > 1 else [None]
        self.free_slots = list(range(self.parallel))
        self.running: dict[_Attempt, int] = {}
        self.asked: signal.Signals | None = None
        """The signal by which all were asked to stop."""
        self.interrupts = 0
        self.ended: dict[Path, str] = {}
        """How, by run folder: finished, stopped, or failed and why."""

    def run(self) -> None:
        """Runs them until each has ended, or all were asked to stop and did."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)
        while self.running or (self.waiting and not self.asked):
            while self.free_slots and not self.asked and (ready := self._ready()):
                self.waiting.remove(ready)
                self._start(*ready)
            if not self.running:  # what is left waits for members that failed
                for member, _ in () if self.asked else self.waiting:
                    self.ended[member.config.run_dir] = f"{FAILED} ({NOT_BEGUN}: {member.after} failed)"
                return
            time.sleep(0.05)
            for attempt, tries in [
                (attempt, tries) for attempt, tries in self.running.items() if attempt.process.poll() is not None
            ]:
                del self.running[attempt]
                self.free_slots.append(attempt.slot)
                self._end(attempt, tries)

    def state(self, member: Member) -> str:
        """How a member of the sweep ended, also one that had finished before."""
        waits = any(member is waiting for waiting, _ in self.waiting)
        return self.ended.get(member.config.run_dir, NOT_BEGUN if waits else FINISHED)

    def require_success(self) -> None:
        """Raises Stopped or TrainingError, naming the members."""
        ends = [(" ".join(member.swept), self.ended.get(member.config.run_dir, "")) for member in self.members]
        failed = [swept + state.removeprefix(FAILED) for swept, state in ends if state.startswith(FAILED)]
        failures = f"{len(failed)} of the sweep's members failed: {'; '.join(failed)}" if failed else ""
        if self.asked:
            at = "; ".join(swept for swept, state in ends if state == STOPPED) or "its members' end"
            raise Stopped(f"the sweep, at {at}; the same command goes on from there{failures and f'. {failures}'}")
        if failed:
            raise TrainingError(failures)

    def _end(self, attempt: _Attempt, tries: int) -> None:
        member, status = attempt.member, attempt.process.returncode
        self._say_how_it_ended(attempt, status)
        if status in STOPPED_STATUSES and (self.asked or status == Stopped.exit_status):
            self.asked = self.asked or signal.SIGTERM
            self.ended[member.config.run_dir] = STOPPED
            self._ask_to_stop(self.asked)
        elif status and tries < member.config.sweep.retries:
            self.waiting.append((member, tries + 1))
        else:
            self.ended[member.config.run_dir] = f"{FAILED} (exit status {status})" if status else FINISHED

    def _ready(self) -> tuple[Member, int] | None:
        """The earliest member that waits for no other; None where all do."""
        unfinished = (
            {member.config.run_dir for member, _ in self.waiting}
            | {attempt.member.config.run_dir for attempt in self.running}
            | {folder for folder, state in self.ended.items() if state.startswith(FAILED)}
        )
        return next((waiting for waiting in self.waiting if waiting[0].after not in unfinished), None)

    def _start(self, member: Member, tries: int) -> None:
        slot = self.free_slots.pop(0)
        output, environment = None, dict(os.environ)
        forget_run(environment)
        again = f" (once more, {tries} of {member.config.sweep.retries})" if tries else ""
        if self.parallel > 1:
            path = member.config.run_dir / LOGS / "sweep.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            output, again = path.open("ab"), f"{again}: output in {path}"
            environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // self.parallel)))
            if (devices := self.devices[slot]) is not None:
                environment["CUDA_VISIBLE_DEVICES"] = devices
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

    def _say_how_it_ended(self, attempt: _Attempt, status: int) -> None:
        if self.parallel > 1:
            ended = {0: FINISHED, Stopped.exit_status: STOPPED}.get(status, f"{FAILED} (exit status {status})")
            seconds = time.monotonic() - attempt.began
            say(f"=== {' '.join(attempt.member.swept)}: {ended} after {seconds:.0f} s")

    def _on_signal(self, number: int, _) -> None:
        self.asked, self.interrupts = signal.Signals(number), self.interrupts + (number == signal.SIGINT)
        self._ask_to_stop(self.asked)

    def _ask_to_stop(self, asked: signal.Signals) -> None:
        for attempt in self.running:
            if attempt.process.poll() is None:
                attempt.process.send_signal(self._signal_for(attempt.member, asked))

    def _signal_for(self, member: Member, asked: signal.Signals) -> signal.Signals:
        if member.config.cluster.launcher == "ssh":
            return asked  # it counts for itself: killed, it would leave its hosts training
        if self.interrupts > 1:
            return signal.SIGKILL
        return signal.SIGTERM if asked == signal.SIGINT else asked


def device_shares(member: Member, parallel: int) -> list[str | None]:
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


def _require_settings(members: Sequence[Member]) -> None:
    """Raises ConfigError before the first member trains where the schedule or the batch of one can't be, however many
    ranks it has. Nothing is built for it: hundreds of members take no time."""
    from mfa_train.training.steps.schedule import check_schedule

    for member in members:
        try:
            member.config.training.micro_batch(groups=1)
            check_schedule(member.config.schedule, member.config.training.total_steps)
        except ConfigError as error:
            raise ConfigError(f"{member.label}: {error}") from error


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
