"""Where a run goes on: the newest whole checkpoint that `resume` means, and how the engine is filled from it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfa_train import config as configs
from mfa_train.checkpoints.folders import newest_first, verified
from mfa_train.checkpoints.manifest import Damaged
from mfa_train.checkpoints.tensor_files import EMA, CheckpointReader
from mfa_train.config import RESUME, Config, GuardConfig
from mfa_train.errors import ConfigError, DataError
from mfa_train.training.processes.ranks import Ranks, world_size
from mfa_train.training.resuming.changes import changes
from mfa_train.training.saving.engine_state import begin_average, derive_weights, pieces, set_updates
from mfa_train.training.saving.rng import set_rng_state
from mfa_train.training.steps.guard import Guard
from mfa_train.training.steps.state import Progress, TrainingState

KEEP_OPEN = 64
"""Files of a checkpoint: a rank that reads its own pieces has two or three."""


@dataclass(frozen=True)
class ResumePoint:
    """A whole checkpoint and what its manifest holds."""

    checkpoint: Path
    content: dict
    damaged: list[Path]
    """Newer ones that are not whole."""
    accepted: list[str]
    """What has changed since: `key: old -> new`."""

    @property
    def step(self) -> int:
        """After which the run goes on."""
        return self.content["step"]

    @property
    def draw(self) -> int:
        """Of the weights that the run began with: `model.initialization.draw`."""
        return configs.completed(self.content["config"])["model"]["initialization"]["draw"]

    def state(self, config: GuardConfig, say: Callable[[str], None]) -> TrainingState:
        """As it was when the checkpoint was made. The guard goes by `config` from now on, and tells `say`."""
        guard = Guard(config, say, self.content["guard"])
        return TrainingState(Progress(**self.content["progress"]), guard, self.content.get("init_from"))


def find_resume_point(
    config: Config,
    folder: Path,
    data: dict[str, Any],
    say: Callable[[str], None],
    vouch: Callable[[Path], dict] = verified,
) -> ResumePoint | None:
    """The newest whole checkpoint that `resume` means; None to start from the first step. `data` is Batches.identity();
    `vouch` gives a checkpoint's manifest or raises Damaged.

    Raises ConfigError where there is none that must be, or where one is another run's; DataError where all are damaged.
    """
    candidates, where = _candidates(config, folder)
    damaged: list[Path] = []
    for checkpoint in candidates:
        try:
            content = vouch(checkpoint)
        except Damaged as error:
            say(f"warning: {checkpoint} is damaged: {error}")
            damaged.append(checkpoint)
            continue
        if _is_older(config.resume, folder, checkpoint, damaged):
            say(
                f"resume={config.resume}: this run is at {checkpoint.name} already and goes on from there; type "
                "name=… for a run of its own from another checkpoint"
            )
        if damaged:
            say(f"{checkpoint} is whole: the run goes on from there")
        return ResumePoint(checkpoint, content, damaged, _accepted(config, checkpoint, content, data))
    if damaged:
        raise DataError(f"{where}: no checkpoint is whole; type resume=never to train anew, the old run is moved aside")
    if config.resume not in ("auto", "never"):
        raise ConfigError(
            f"resume={config.resume}: there is no checkpoint in {where}; type resume=auto to start without one"
        )
    return None


def restore(engine, point: ResumePoint, ranks: Ranks) -> None:
    """Puts weights, optimizer and random generators of every rank back, and the average of the weights, which begins
    with these weights where the checkpoint holds none. Raises Damaged."""
    reader = CheckpointReader(point.checkpoint, point.content, keep=KEEP_OPEN)
    for piece in pieces(engine, ranks.rank):
        reader.fill(piece)
    if EMA not in reader.kinds:
        begin_average(engine)
    set_updates(engine, point.content["updates"])
    derive_weights(engine)
    try:
        set_rng_state(reader.rng(ranks.rank))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise Damaged(f"{point.checkpoint}: no state of random generators ({type(error).__name__})") from error


def _candidates(config: Config, folder: Path) -> tuple[list[Path], Path]:
    """Checkpoints to try, the newest first, and where they were looked for."""
    own = folder / "checkpoints"
    if config.resume == "never":
        return [], own
    if config.resume in RESUME or newest_first(own):  # its own go before the one it started from
        return newest_first(own), own
    path = Path(config.resume)
    if not path.is_dir():
        raise ConfigError(
            f"resume={path}: expected {', '.join(RESUME)}, or a folder that is there: a checkpoint, as "
            "runs/mfa-nano/checkpoints/step-00000100, or a run, as runs/mfa-nano"
        )
    if path.name.startswith("step-"):
        return [path], path
    return newest_first(path / "checkpoints"), path / "checkpoints"


def _is_older(resume: str, folder: Path, newest: Path, damaged: list[Path]) -> bool:
    """Whether `resume` names something else among this run's own checkpoints than its newest. Told and not refused: a
    job that is queued again comes with the words it was first launched with."""
    asked = Path(resume).resolve()
    return asked.parent == (folder / "checkpoints").resolve() and asked.name not in {
        path.name for path in (newest, *damaged)
    }


def _accepted(config: Config, checkpoint: Path, content: dict, data: dict[str, Any]) -> list[str]:
    """What has changed since `checkpoint` and may. Raises ConfigError for what may not."""
    theirs = configs.completed(content["config"])
    if config.init_from not in (None, theirs["init_from"]) and config.resume not in RESUME:
        raise ConfigError(
            f"init_from={config.init_from} and resume={config.resume}: resume goes on with weights, optimizer, step "
            "and data order from there, init_from begins a run anew with weights alone: type one of them"
        )
    refused, accepted = changes(theirs, config)
    refused += [f"data {line}" for line in configs.differences(content["data"], data)]
    if refused:
        raise ConfigError(
            f"{checkpoint} is of another model or other data ({'; '.join(refused[:3])}"
            f"{', …' if len(refused) > 3 else ''}); type name=… for a run of its own, or resume=never"
        )
    if content["step"] > config.training.total_steps:
        raise ConfigError(
            f"training.steps={config.training.total_steps}: {checkpoint} is further already; type "
            f"training.steps={content['step']} or more"
        )
    if content["world_size"] != world_size():
        accepted.append(f"processes: {content['world_size']} -> {world_size()}")
    return accepted
