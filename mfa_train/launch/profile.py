"""`mfa-train profile`: asks a running run, wherever it runs, for a trace of some steps, and waits until it is there.

The run's folder is all that the two share: how they talk there says `training.run_folder.profile_request`.
"""

import contextlib
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from mfa_train.budget.units import size_of
from mfa_train.config.profile_schema import FIRST, require_ranks, require_window
from mfa_train.config.requirements import STEPS, require_whole
from mfa_train.errors import ConfigError, UserError
from mfa_train.launch.status import state_of
from mfa_train.tracking.metrics_file import FILE as METRICS
from mfa_train.tracking.records import last_records
from mfa_train.tracking.starts import starts
from mfa_train.training.run_folder import profile_request as requests
from mfa_train.training.run_folder.profile_request import Request

POLL_SECONDS, STATE_SECONDS = 0.5, 5.0
"""Between two looks for the trace, and for whether the run is still there."""
HOW_TO_OPEN = "open a trace at https://ui.perfetto.dev (it stays in the browser)"
HOW_TO_OPEN_MEMORY = "a memory snapshot at https://pytorch.org/memory_viz"


def ask(run: Path, steps: int, ranks: str, step: int | None) -> Request:
    """Leaves the request for the run in the folder `run`. Raises ConfigError where there is none that runs, where it
    has no such ranks or steps, or another request is there."""
    require_window("--steps", steps)
    if not re.fullmatch("[0-9]{1,7}(,[0-9]{1,7})*", ranks):
        raise ConfigError(f"--ranks={ranks}: expected numbers of ranks from 0, as --ranks 0,7")
    request = Request(secrets.token_hex(8), steps, [int(rank) for rank in ranks.split(",")], step)
    require_ranks("--ranks", request.ranks)
    if step is not None:
        require_whole("--step", step, FIRST, STEPS)
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run}: no run here (config.yaml is missing); type the run's folder, as runs/mfa-nano")
    if (state := state_of(run)) != "running":
        raise ConfigError(
            f"{run}: is {state}, and only a running run can be profiled; start it with profile.step=N profile.steps="
            f"{steps} for a profile on its way"
        )
    started = starts(run)
    world_size = started[-1].get("world_size") if started else None
    if type(world_size) is int and world_size > 0:
        require_ranks("--ranks", request.ranks, world_size)
    if step is not None and step <= (last := _last_step(run)):
        raise ConfigError(f"--step={step}: the run is at step {last:,}: type a later one")
    requests.ask(run, request)
    return request


def wait(
    run: Path, request: Request, seconds: float, say: Callable[[str], None], say_aside: Callable[[str], None]
) -> None:
    """Waits until the profile is there, and says where. Raises ConfigError where the run refuses it, UserError where
    the run ends before, a rank could not write its part, or `seconds` are over."""
    try:
        folder, summary = _made(run, request, seconds, say_aside)
    except KeyboardInterrupt:
        _take_back(run, request)
        raise
    failed = {rank: file["error"] for rank, file in summary["ranks"].items() if "error" in file}
    say(f"{folder}: {_steps(summary['step'], summary['steps'])}")
    for rank, file in summary["ranks"].items():
        if rank not in failed:
            memory = file["memory"] or "no memory snapshot on a CPU, the trace tells what is allocated"
            say(f"  rank {rank}: {file['trace']}, {size_of(file['bytes'])}; {memory}")
    if len(failed) < len(summary["ranks"]):
        snapshots = any(file.get("memory") for file in summary["ranks"].values())
        say(f"{HOW_TO_OPEN}{f', {HOW_TO_OPEN_MEMORY}' if snapshots else ''}")
    if failed:
        raise UserError("; ".join(f"rank {rank} has no profile: {why}" for rank, why in failed.items()))


def _made(run: Path, request: Request, seconds: float, say_aside: Callable[[str], None]) -> tuple[Path, dict]:
    begun, looked, told = time.monotonic(), time.monotonic(), False
    while True:
        answer = requests.read(run)
        if answer is None or answer.id != request.id:
            if found := requests.made(run, request.id):
                return found
            raise UserError(f"{requests.path_of(run)}: was removed before the profile was made")
        if answer.refused is not None:
            _take_back(run, request)
            raise ConfigError(f"{run}: no profile: {answer.refused}")
        if answer.first is not None and not told:
            told = True
            say_aside(f"{_steps(answer.first, request.steps)}, in {requests.folder_of(run, answer.first)}")
        now = time.monotonic()
        if now - looked > STATE_SECONDS:
            looked = now
            if (state := state_of(run)) != "running" and requests.read(run) == answer:
                _take_back(run, request)
                raise UserError(f"{run}: is {state}; it ended before the profile was made")
        if now - begun > seconds:
            if answer.first is None:
                _take_back(run, request)
                how_far = "the run has not taken it up, and the request is taken back"
            else:
                folder = requests.folder_of(run, answer.first)
                how_far = f"{_steps(answer.first, request.steps)} will be in {folder}"
            raise UserError(
                f"{run}: no profile after {seconds:g} s (--timeout), the last record is of step {_last_step(run):,}: "
                f"{how_far}"
            )
        time.sleep(POLL_SECONDS)


def _take_back(run: Path, request: Request) -> None:
    """Removes the request, where it is this one."""
    with contextlib.suppress(OSError):  # something else is being told
        requests.remove(run, request)


def _last_step(run: Path) -> int:
    records = last_records(run / METRICS, 1) if (run / METRICS).is_file() else []
    return records[-1]["step"] if records else 0


def _steps(first: int, steps: int) -> str:
    return f"step {first:,}" if steps == 1 else f"steps {first:,} to {first + steps - 1:,}"
