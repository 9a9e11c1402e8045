"""Where a run goes on, and what may have changed since.

Refused, since the curve would be another run's: what changes the model, the data or their order. (Where the data come
from may change, as from a disk to a bucket: they are compared by what they are, `Batches.identity`.) Accepted and
written down: how long, how fast and on what it is trained (steps, learning rate, schedule, ZeRO stage, number of
processes, precision, …). Free: what changes no number.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mfa_train import config as configs
from mfa_train.config import RESUME, Config
from mfa_train.errors import ConfigError, DataError
from mfa_train.training.checkpoints.engine_state import derive_weights, pieces, set_updates
from mfa_train.training.checkpoints.folders import Damaged, Reader, found, verified
from mfa_train.training.checkpoints.rng import set_rng_state
from mfa_train.training.processes.ranks import Ranks, world_size
from mfa_train.training.resuming.stretches import HARMLESS

FREE = (
    "name",
    "resume",
    "data_dir",
    "data.path",
    "data.corpora",
    "data.cache_",
    "runs_dir",
    "tracking.",
    "sample.",
    "match.",
    "cluster.",
    "sweep.",
    "checkpoint.",
    "guard.hang_seconds",
    "plan.context",
    "plan.mfu",
    "plan.decode_counting",
    "plan.check",
)
REFUSED = ("attention.", "model.", "data.document_mask", "seed:", "training.batch_size", "training.sequence_length")
ACCEPTED = ("attention.kernel", "model.learning_rate", "model.max_position_embeddings")
"""Among the refused."""


@dataclass
class Progress:
    """How far a run is: what shapes its future and is neither in the engine nor the guard's."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Of training, all starts together."""
    left_out: int = 0
    """Samples that rollbacks have passed over: step s consumes [s·B + left_out, (s + 1)·B + left_out)."""
    rollbacks: int = 0
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last record."""
    stretches: list[dict] = field(default_factory=list)
    """From which step with which settings, another run's before it branched off included; empty in an older
    checkpoint."""


@dataclass(frozen=True)
class StartingPoint:
    """A whole checkpoint and what its manifest holds."""

    checkpoint: Path
    content: dict
    damaged: list[Path]
    """Newer ones that are not whole."""
    accepted: list[str]
    """What has changed since: `key: old -> new`."""

    @property
    def progress(self) -> Progress:
        return Progress(**self.content["progress"])


def changes(old: dict, config: Config) -> tuple[list[str], list[str]]:
    """(refused, accepted) differences of `config` from the plain mapping `old`, each `key: old -> new`."""
    lines = [line for line in configs.differences(old, dataclasses.asdict(config)) if not line.startswith(FREE)]
    refused = [line for line in lines if line.startswith(REFUSED) and not line.startswith(ACCEPTED)]
    return refused, [line for line in lines if line not in refused]


def settings(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    """What may change on the way and shapes the curve: a stretch's part of the config. `dtype` is what its precision
    means here."""
    refused = tuple(key.rstrip(":") for key in REFUSED)
    found = {
        key: value
        for key, value in configs.flat(dataclasses.asdict(config)).items()
        if not key.startswith((*FREE, *refused, *HARMLESS))
    }
    del found["training.tokens"]
    return found | {
        "training.steps": config.training.total_steps,
        "precision": {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype],
    }


def starting_point(
    config: Config,
    folder: Path,
    data: dict[str, Any],
    say: Callable[[str], None],
    vouch: Callable[[Path], dict] = verified,
) -> StartingPoint | None:
    """The newest whole checkpoint that `resume` means; None to start from the first step. `data` is Batches.identity();
    `vouch` gives a checkpoint's manifest or raises Damaged.

    Raises ConfigError where there is none that must be, or where one is another run's; DataError where all are damaged.
    """
    candidates, where = _candidates(config, folder)
    damaged = []
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
                "name=… for a run "
                "of its own from another checkpoint"
            )
        if damaged:
            say(f"{checkpoint} is whole: the run goes on from there")
        return StartingPoint(checkpoint, content, damaged, _accepted(config, checkpoint, content, data))
    if damaged:
        raise DataError(f"{where}: no checkpoint is whole; type resume=never to train anew, the old run is moved aside")
    if config.resume not in ("auto", "never"):
        raise ConfigError(
            f"resume={config.resume}: there is no checkpoint in {where}; type resume=auto to start without one"
        )
    return None


def restore(engine, start: StartingPoint, ranks: Ranks) -> None:
    """Puts weights, optimizer and random generators of every rank back. Raises Damaged."""
    reader = Reader(start.checkpoint, start.content)
    for piece in pieces(engine, ranks.rank):
        reader.fill(piece)
    set_updates(engine, start.content["updates"])
    derive_weights(engine)
    try:
        set_rng_state(reader.rng(ranks.rank))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise Damaged(f"{start.checkpoint}: no state of random generators ({type(error).__name__})") from error


def _candidates(config: Config, folder: Path) -> tuple[list[Path], Path]:
    """Checkpoints to try, the newest first, and where they were looked for."""
    own = folder / "checkpoints"
    if config.resume == "never":
        return [], own
    if config.resume in RESUME or found(own):  # its own go before the one it started from
        return found(own), own
    path = Path(config.resume)
    if not path.is_dir():
        raise ConfigError(
            f"resume={path}: expected {', '.join(RESUME)}, or a folder that is there: a checkpoint, as "
            "runs/mfa-nano/checkpoints/step-00000100, or a run, as runs/mfa-nano"
        )
    return ([path], path) if path.name.startswith("step-") else (found(path / "checkpoints"), path / "checkpoints")


def _is_older(resume: str, folder: Path, newest: Path, damaged: list[Path]) -> bool:
    """Whether `resume` names something else among this run's own checkpoints than its newest. Told and not refused: a
    job that is queued again comes with the words it was first launched with."""
    asked = Path(resume).resolve()
    return asked.parent == (folder / "checkpoints").resolve() and asked.name not in {
        path.name for path in (newest, *damaged)
    }


def _accepted(config: Config, checkpoint: Path, content: dict, data: dict[str, Any]) -> list[str]:
    refused, accepted = changes(configs.completed(content["config"]), config)
    old = content["data"]
    refused += [f"data {line}" for line in configs.differences(old, data)]
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
