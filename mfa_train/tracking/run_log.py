"""One record a logged step, to every place a run's numbers go."""

from pathlib import Path

from mfa_train.config import TrackingConfig
from mfa_train.tracking.leet import show_losses_first
from mfa_train.tracking.metrics_file import FILE, MetricsFile
from mfa_train.tracking.records import last_records, number, records
from mfa_train.tracking.terminal import ProgressBar
from mfa_train.tracking.wandb_run import WandbRun


class RunLog:
    """metrics.jsonl, the progress bar and W&B of the run in `folder`, which goes on from `from_step`.

    `wandb_id` is the W&B run of an earlier start: it is continued, and steps it holds are not logged again. Without
    one, records that are there already are logged to the new one.
    """

    def __init__(
        self,
        config: TrackingConfig,
        folder: Path,
        run_config: dict,
        steps: int,
        from_step: int = 0,
        wandb_id: str | None = None,
    ):
        self.metrics = MetricsFile(folder / FILE, from_step)
        logged_to = self.metrics.logged_to if wandb_id else 0
        self.wandb = WandbRun(config, folder.name, folder, run_config, wandb_id, logged_to)
        if wandb_id is None and self.wandb.run:  # a branch begins with what it branches off
            for record in records(self.metrics.path):
                self.wandb.log(record)
        if self.wandb.folder:
            show_losses_first(folder, self.wandb.folder)
        self.bar = ProgressBar(steps, from_step)

    def advance(self, done: int) -> None:
        """Shows that so many steps are done."""
        self.bar.advance(done)

    def log(self, record: dict) -> None:
        """Hands the record of a logged step, under the same names, to metrics.jsonl, the progress bar and W&B."""
        self.metrics.log(record)
        self.bar.log(record)
        self.wandb.log(record)

    def wandb_identity(self) -> dict[str, str | None] | None:
        """By which the W&B run is found again: its id, and its address where it has one."""
        return self.wandb.identity()

    def last_record(self) -> dict:
        """The last record that is there; empty before there is one, and where its counts are damaged."""
        last = next(iter(last_records(self.metrics.path, 1)), {})
        return last if all(number(last.get(key)) for key in ("tokens", "flops", "seconds")) else {}

    def flush(self) -> None:
        """Waits until what was logged is on the disk."""
        self.metrics.flush()

    def go_back(self, step: int) -> None:
        """Forgets the steps after `step`, which are made anew."""
        self.metrics.cut(step)
        self.wandb.logged_to = max(self.wandb.logged_to, self.metrics.logged_to)

    def close(self, summary: dict) -> None:
        """Ends all three; W&B gets the summary."""
        self.bar.close()
        self.metrics.close()
        self.wandb.finish(summary)


class SilentLog:
    """The log of every rank but the first."""

    def advance(self, done: int) -> None:
        pass

    def log(self, record: dict) -> None:
        pass

    def wandb_identity(self) -> None:
        pass

    def last_record(self) -> dict:
        return {}

    def flush(self) -> None:
        pass

    def go_back(self, step: int) -> None:
        pass

    def close(self, summary: dict) -> None:
        pass
