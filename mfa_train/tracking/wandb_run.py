"""The run in W&B: online when logged in, else offline. Whatever fails here is told once and never stops the run.

A resumed run is the same W&B run. W&B's step only rises and it drops what is logged behind it, so steps that are made
again after a kill are not logged again.

What W&B's own variables say holds where tracking.wandb is auto: WANDB_MODE=disabled (or WANDB_DISABLED=true) means
none, offline and dryrun offline. A variable that W&B refuses, as a key that can't be one, leaves the run offline.

Every metric is drawn over `tokens`, or over `flops` by choosing it as the x-axis. The run's config holds the resolved
config and the plan's numbers, so that runs can be grouped by attention and KV budget.
"""

import contextlib
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from mfa_train.config import TrackingConfig, hidden
from mfa_train.tracking.heat_maps import with_heat_maps
from mfa_train.tracking.terminal import say

INIT_TIMEOUT_SECONDS = 30
ONE_RUN = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM", "WANDB_NAME", "WANDB_RUN_NAME")
"""Variables that say which run of W&B's is meant: for two runs they would make one of them."""
REFUSABLE = (*ONE_RUN, "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE")
"""Variables that only an online run needs, or that can be wrong."""


def forget_run(environment: MutableMapping[str, str]) -> None:
    """Makes what runs in `environment` a run of its own in W&B: a sweep's member, or a run that is trained anew."""
    for name in ONE_RUN:
        environment.pop(name, None)


class WandbRun:
    """The run in W&B, from its start to its summary; `say` prints where it can be seen or what went wrong, in a line.

    `run_id` is that of the run to continue, `logged_to` the last step it holds.
    """

    def __init__(
        self,
        config: TrackingConfig,
        name: str,
        folder: Path,
        run_config: dict,
        run_id: str | None = None,
        logged_to: int = -1,
        say=say,
    ):
        self.say, self.run_id, self.logged_to = say, run_id, logged_to
        self.run = None
        mode = _by_environment() if config.wandb == "auto" else config.wandb
        if mode == "disabled":
            if config.wandb == "auto":
                say(
                    "W&B: off, as WANDB_MODE or WANDB_DISABLED in the environment says; type tracking.wandb=offline "
                    "to log all the "
                    "same"
                )
            return
        try:
            self.run = self._start(config, mode, name, folder, run_config)
        except Exception as error:  # W&B's own failures have no common type, and none may stop a run.
            self._give_up(error)

    def _start(self, config: TrackingConfig, mode: str, name: str, folder: Path, run_config: dict):
        import wandb

        def begin(online: bool):
            with _without_launch_inputs():
                return wandb.init(
                    mode="online" if online else "offline",
                    project=config.project,
                    entity=config.entity,
                    group=config.group,
                    name=name,
                    dir=str(folder),
                    config=run_config,
                    reinit="finish_previous",
                    id=self.run_id,
                    resume="allow" if self.run_id else None,
                    allow_val_change=True,
                    settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT_SECONDS),
                )

        online, why = mode == "online", ""
        try:
            if mode == "auto":
                online = wandb.login(prompt=False, verify=False)
                why = "" if online else " (not logged in: `wandb login` to log online)"
            run = begin(online)
        except Exception as error:  # a server that can't be reached or refuses, a variable that can't be
            self.say(f"W&B can't be logged to ({_line(error)}): logging offline")
            with _without(REFUSABLE):
                wandb.teardown()  # it has read the variables before
                online, run = False, begin(online=False)
        for axis in ("tokens", "flops"):
            run.define_metric(axis)
        run.define_metric("*", step_metric="tokens")
        if online:
            self.say(f"W&B: {run.url}")
        else:
            self.say(f"W&B: offline{why}; look at it with: wandb leet {Path(run.dir).parent}")
        return run

    @property
    def folder(self) -> Path | None:
        """W&B's own folder of this start, as run-DATE-ID; None where nothing is logged."""
        return None if self.run is None else Path(self.run.dir).parent

    def log(self, record: dict) -> None:
        if self.run is None or record["step"] <= self.logged_to:
            return
        try:
            self.run.log(with_heat_maps(record), step=record["step"])
        except Exception as error:
            self._give_up(error)

    def identity(self) -> dict[str, str | None] | None:
        """By which the run is found again: its id, and its address where it has one."""
        return self.run and {"id": self.run.id, "url": None if self.run.offline else self.run.url}

    def finish(self, summary: dict) -> None:
        if self.run is None:
            return
        try:
            if summary["status"] == "stopped":
                self.run.mark_preempting()
            self.run.summary.update(summary)
            self.run.finish(exit_code=0 if summary["status"] == "finished" else 1)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.run = None
        self.say(f"W&B is off for this run: {_line(error)}")


def _by_environment() -> str:
    """What tracking.wandb=auto means by W&B's own variables: disabled, offline, or auto still."""
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes", "on"):
        return "disabled"
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    return {"disabled": "disabled", "offline": "offline", "dryrun": "offline"}.get(mode, "auto")


@contextlib.contextmanager
def _without_launch_inputs() -> Iterator[None]:
    """A run that begins meanwhile does not look for inputs of W&B Launch: there are none, and W&B imports its whole API
    for that, a second. It has no setting for it; a version without that method is left as it is."""
    from wandb.sdk.wandb_run import Run

    name = "_detect_and_apply_job_inputs"
    if (its_own := getattr(Run, name, None)) is None:
        yield
        return
    setattr(Run, name, lambda run: None)
    try:
        yield
    finally:
        setattr(Run, name, its_own)


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def _line(error: Exception) -> str:
    """What went wrong, and where pydantic lists it over several lines, of it the first thing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return hidden(f"{lines[0]}: {lines[1]}" if "validation error" in lines[0] and lines[1:] else lines[0])
