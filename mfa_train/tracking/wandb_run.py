"""The run in W&B: online when logged in, else offline. Whatever fails here is told once and never stops the run.

A resumed run is the same W&B run. W&B's step only rises and it drops what is logged behind it, so steps that are made
again after a kill are not logged again.

Every metric is drawn over `tokens`, or over `flops` by choosing it as the x-axis. The run's config holds the resolved
config and the plan's numbers, so that runs can be grouped by attention and KV budget.
"""

from pathlib import Path

from mfa_train.config import TrackingConfig
from mfa_train.tracking.terminal import say

INIT_TIMEOUT_SECONDS = 30


class WandbRun:
    """`say` is told, in one line, where the run can be seen or what went wrong.

    `run_id` is that of the run to continue, `logged_to` the last step it holds.
    """

    def __init__(self, config: TrackingConfig, name: str, folder: Path, run_config: dict, run_id: str | None = None,
                 logged_to: int = -1, say=say):
        self.say, self.run_id, self.logged_to = say, run_id, logged_to
        self.run = None
        if config.wandb == "disabled":
            return
        try:
            self.run = self._start(config, name, folder, run_config)
        except Exception as error:  # W&B's own failures have no common type, and none may stop a run.
            self._give_up(error)

    def _start(self, config: TrackingConfig, name: str, folder: Path, run_config: dict):
        import wandb

        mode, why = config.wandb, ""
        if mode == "auto":
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
            why = " (not logged in: `wandb login` to log online)" if mode == "offline" else ""
        options = {
            "project": config.project, "entity": config.entity, "group": config.group, "name": name,
            "dir": str(folder), "config": run_config, "reinit": "finish_previous",
            "id": self.run_id, "resume": "allow" if self.run_id else None, "allow_val_change": True,
            "settings": wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT_SECONDS),
        }
        try:
            run = wandb.init(mode=mode, **options)
        except Exception as error:
            if mode == "offline":
                raise
            self.say(f"W&B cannot be reached ({_line(error)}): logging offline")
            mode, run = "offline", wandb.init(mode="offline", **options)
        for axis in ("tokens", "flops"):
            run.define_metric(axis)
        run.define_metric("*", step_metric="tokens")
        if mode == "online":
            self.say(f"W&B: {run.url}")
        else:
            self.say(f"W&B: offline{why}; look at it with: wandb leet {Path(run.dir).parent}")
        return run

    def log(self, record: dict) -> None:
        if self.run is None or record["step"] <= self.logged_to:
            return
        try:
            self.run.log(record, step=record["step"])
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


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
