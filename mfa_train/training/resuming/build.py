"""The engine of a run, new or as the newest whole checkpoint left it, and the state that goes with it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from mfa_train.checkpoints.object_storage import StoredRun
from mfa_train.checkpoints.tensor_files import EMA
from mfa_train.config import Config
from mfa_train.config.model_schema import DRAWS
from mfa_train.data.reading.batches import Batches
from mfa_train.training.init_from.source import Source
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.resuming.agreement import find_verified
from mfa_train.training.resuming.changes import curve_settings
from mfa_train.training.resuming.from_storage import fetch_again
from mfa_train.training.resuming.resume_point import ResumePoint, restore
from mfa_train.training.resuming.stretches import continued
from mfa_train.training.saving.engine_state import fill
from mfa_train.training.steps.engine import build_engine
from mfa_train.training.steps.guard import Guard
from mfa_train.training.steps.state import Progress, TrainingState


def build_to_resume(
    config: Config,
    folder: Path,
    batches: Batches,
    ranks: Ranks,
    dtype: torch.dtype,
    source: Source | None = None,
    stored: StoredRun | None = None,
):
    """(engine, ResumePoint | None, record | None): with a point the engine's weights are not set yet, `restored` does
    that; without one they are the `source`'s, of which the record tells, or new.

    The files of either are read for their checksums while the engine is built, by all ranks, each its share; a
    checkpoint that is damaged here and whole in `stored` is fetched. Raises UserError.
    """
    built = []

    def mend(checkpoint: Path, damage: str) -> bool:
        return stored is not None and fetch_again(stored, folder, checkpoint, damage, ranks)

    def build(point: ResumePoint | None) -> None:
        built.append(build_engine(config, ranks, dtype, fresh=point is None and source is None))

    with ThreadPoolExecutor(1) as beside:
        summing = beside.submit(source.sums, slice(ranks.rank, None, ranks.world_size)) if source else None
        point = find_verified(config, folder, batches.identity(), ranks, meanwhile=build, mend=mend)
    (engine,) = built
    if point and point.draw in DRAWS:  # what is written down of the run says how its weights began
        config.model.initialization.draw = point.draw
    record = None
    if source and summing:
        shares = ranks.on_each(summing.result)
        record = source.record({name: summed for sums in shares for name, summed in sums.items()})
        fill(engine, source)
    return engine, point, record


def restored(
    engine,
    point: ResumePoint | None,
    config: Config,
    ranks: Ranks,
    dtype: torch.dtype,
    record: dict[str, Any] | None = None,
) -> TrainingState:
    """The state to go on with, the engine filled from the same checkpoint; without a point a new run's, with the
    `record` of where its weights came from."""
    if point:
        restore(engine, point, ranks)
        state = point.state(config.guard, ranks.say)
        changed = [f"changed since: {line}" for line in point.accepted]
        ranks.say("\n".join([f"goes on from {point.checkpoint}, after step {point.step}", *changed]))
        if config.training.ema is not None and EMA not in point.content:
            ranks.say(
                f"training.ema={config.training.ema}: the average begins with the weights after step {point.step}"
            )
        elif config.training.ema is None and EMA in point.content:
            ranks.say("training.ema=null: the average of the weights that the checkpoint holds is kept no longer")
    else:
        state = TrainingState(Progress(), Guard(config.guard, ranks.say), record)
    progress = state.progress
    progress.stretches = continued(progress.stretches, progress.step, curve_settings(config, dtype))
    return state
