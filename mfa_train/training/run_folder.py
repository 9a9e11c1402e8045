"""What a run leaves behind: runs_dir/NAME with config.yaml, plan.json, metrics.jsonl, summary.json, checkpoints/, wandb/.

The folder is a pure function of the run's name, so all ranks and all restarts share one.
"""

import json
import tempfile
from pathlib import Path

from mfa_train import config as configs
from mfa_train.config import Config
from mfa_train.errors import ConfigError

FREE_TO_CHANGE = ("resume", "data_dir", "data.path", "data.corpora.", "data.cache_", "runs_dir", "tracking.", "sample.", "match.", "cluster.", "plan.context",
                  "plan.mfu", "plan.decode_counting", "plan.check")
"""Keys that change no number of a run."""


def final_checkpoint(run: Path) -> Path:
    """The folder of a run's final weights and tokenizer."""
    return run / "checkpoints" / "final"


class RunFolder:
    """Nothing stays behind in the folder before `create`."""

    def __init__(self, config: Config):
        self.config = config
        self.path = config.run_dir

    def finished_summary(self) -> dict | None:
        """The summary of the same run, finished before; None where there is nothing yet, or an unfinished one.

        Raises ConfigError where the folder holds another run or cannot be written.
        """
        _require_writable(self.path, f"runs_dir={self.config.runs_dir}")
        if self.config.resume == "never" or not self.path.exists() or not any(self.path.iterdir()):
            return None
        mend = "type name=… for a run beside it, or resume=never to move it aside and train anew"
        if not (self.path / "config.yaml").is_file():
            raise ConfigError(f"name={self.config.name}: {self.path} holds files that are no run; {mend}")
        changed = [line for line in configs.differences(configs.of_run(self.path), self.config)
                   if not line.startswith(FREE_TO_CHANGE)]
        if changed:
            raise ConfigError(f"name={self.config.name}: {self.path} holds another run ({'; '.join(changed[:3])}"
                              f"{', …' if len(changed) > 3 else ''}); {mend}")
        try:
            summary = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # an unfinished run has none, or half of one
            return None
        return summary if summary["status"] == "finished" and final_checkpoint(self.path).is_dir() else None

    def create(self, plan: dict) -> None:
        """Makes the folder. An older run of this name is moved aside to NAME~1, NAME~2, … with resume=never; an
        unfinished one of the same config starts again in its place."""
        if self.config.resume == "never" and self.path.exists() and any(self.path.iterdir()):
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}~{number}")).exists():
                number += 1
            self.path.rename(aside)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "config.yaml").write_text(configs.to_yaml(self.config), encoding="utf-8")
        self.write_json("plan.json", plan)

    def write_json(self, name: str, value: dict) -> None:
        (self.path / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _require_writable(path: Path, key: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        if not any(path.iterdir()):
            path.rmdir()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be written ({error.strerror}); type runs_dir=FOLDER with one that can") from None
