"""One record a logged step, to every place a run's numbers go."""

from pathlib import Path

from mfa_train.config import TrackingConfig
from mfa_train.tracking.metrics_file import MetricsFile
from mfa_train.tracking.terminal import ProgressBar
from mfa_train.tracking.wandb_run import WandbRun


class RunLog:
    """metrics.jsonl, the progress bar and W&B of the run in `folder`."""

    def __init__(self, config: TrackingConfig, folder: Path, run_config: dict, steps: int):
        self.wandb = WandbRun(config, folder.name, folder, run_config)
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        self.bar = ProgressBar(steps)

    def advance(self) -> None:
        """One more step is done."""
        self.bar.advance()

    def log(self, record: dict) -> None:
        self.metrics.log(record)
        self.bar.log(record)
        self.wandb.log(record)

    def close(self, summary: dict) -> None:
        self.bar.close()
        self.metrics.close()
        self.wandb.finish(summary)


class SilentLog:
    """The log of every rank but the first."""

    def advance(self) -> None:
        pass

    def log(self, record: dict) -> None:
        pass

    def close(self, summary: dict) -> None:
        pass
