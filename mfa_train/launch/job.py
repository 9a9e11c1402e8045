"""What a launch leaves for its ranks: job.json, with the overrides of each member as they were typed.

Ranks read their overrides from it, so that no config value ever passes through a shell, a scheduler or another
launcher. Of cluster.environment it holds the file's name alone. It lies in NAME/launch/ of a run's folder, a sweep's in
runs_dir/.sweeps/GROUP-MEMBERS/, where no other sweep of the group changes what a queued one is going to read.
"""

import dataclasses
import hashlib
import json
import os
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mfa_train.config import Config, Member
from mfa_train.errors import ConfigError
from mfa_train.launch.devices import kind_of
from mfa_train.launch.environment import environment
from mfa_train.run_files import LAUNCH
from mfa_train.tracking.starts import versions
from mfa_train.training.processes.device_kind import CPU, CUDA

JOB, SWEEPS = "job.json", ".sweeps"


@dataclass(frozen=True)
class Job:
    folder: str
    """Where this lies; absolute."""
    members: list[dict]
    """`run_dir` (absolute) and `overrides` of each: one, or those of a sweep."""
    nodes: int
    devices_per_node: int
    port: int | None
    environment: str | None
    """cluster.environment, absolute: every rank reads it where it starts."""
    versions: dict[str, str]
    """Of the libraries where the job was launched: all nodes must have the same."""
    max_restarts: int = 0
    """cluster.max_restarts; jobs from before it have none."""
    device: str | None = None
    """cuda | cpu: what every rank trains on. None, of a job from before there was this field: as each finds."""

    @property
    def world_size(self) -> int:
        return self.nodes * self.devices_per_node

    @property
    def is_sweep(self) -> bool:
        return Path(self.folder).parent.name == SWEEPS

    @property
    def word(self) -> str:
        """The folder as one word that shells, pdsh and schedulers leave as it is."""
        return urllib.parse.quote(self.folder)

    def write(self) -> None:
        """Raises ConfigError where it can't be."""
        folder = Path(self.folder)
        make_folder(folder)
        beside = folder / f"{JOB}.partial"
        beside.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        os.replace(beside, folder / JOB)


def read_job(word: str) -> Job:
    """The job of `Job.word`. Raises ConfigError where it isn't there, as on a node that doesn't see the launch's
    folder."""
    path = Path(urllib.parse.unquote(word)) / JOB
    try:
        job = Job(**json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(job.environment, str | None):
            raise TypeError("its environment is no file")
        if job.device not in (None, CUDA, CPU):
            raise TypeError("its device is neither cuda nor cpu")
        if not all(isinstance(member, dict) and {"run_dir", "overrides"} <= member.keys() for member in job.members):
            raise TypeError("a member without run_dir or overrides")
        return job
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): runs_dir must be a folder that all nodes share"
        ) from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not a job of this version ({error}); launch it again") from None


def make_job(members: Sequence[Member], cwd: Path, part: str = "") -> Job:
    """The job of one run or of a sweep, or of a `part` of it, not written yet. Relative runs_dir count from `cwd`."""
    first = members[0].config
    runs = [cwd / member.config.run_dir for member in members]
    folder = runs[0] / LAUNCH
    if members[0].swept:
        which = hashlib.sha256("\n".join(map(str, runs)).encode()).hexdigest()[:8]
        folder = cwd / first.runs_dir / SWEEPS / f"{sweep_name(first)}{part}-{which}"
    # An older run is moved aside once, when the job is launched: what it then finds is its own.
    again = [["resume=auto"] if member.config.resume == "never" else [] for member in members]
    environment(file := first.cluster.environment)  # read by the ranks; here for its mistakes alone
    return Job(
        str(folder),
        [
            {"run_dir": str(run), "overrides": [*member.overrides, *auto]}
            for run, member, auto in zip(runs, members, again)
        ],
        first.cluster.nodes,
        first.cluster.devices_per_node,
        first.cluster.port,
        None if file is None else str(cwd / file),
        versions(),
        max_restarts=first.cluster.max_restarts,
        device=kind_of(first.cluster),
    )


def make_folder(folder: Path) -> None:
    """Of a run or in it. Raises ConfigError where it can't be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"runs_dir: {folder} cannot be made ({error.strerror}); type runs_dir=FOLDER with one where it can"
        ) from None


def sweep_name(config: Config) -> str:
    """Of the sweep that `config` is a member of: its W&B group, as a folder's name."""
    return str(config.tracking.group).replace("/", "_")
