"""Back to the last checkpoint and past the data since, when too many steps in a row could not be applied.

The steps are made again with the samples that follow the bad stretch, as the PaLM paper did by hand (arXiv 2204.02311,
section 5.1). The curve then is no longer the one that the config alone would give; the checkpoint and summary.json hold
how many samples were left out, and the terminal tells it.
"""

import dataclasses

from mfa_train.errors import TrainingError
from mfa_train.training.resuming.agreement import find_verified
from mfa_train.training.resuming.resume_point import restore
from mfa_train.training.resuming.stretches import continued
from mfa_train.training.saving.save_points import SavePoints
from mfa_train.training.steps.guard import Guard, Poisoned
from mfa_train.training.steps.state import TrainingState
from mfa_train.training.steps.step import TrainingStep


def roll_back(poisoned: Poisoned, step: TrainingStep, save_points: SavePoints) -> None:
    """Fills the engine from the last checkpoint, and lets `step` go on from there.

    Raises TrainingError where there is no checkpoint, or guard.max_rollbacks are used up.
    """
    config, ranks = step.config, step.ranks
    progress, guard = step.state.progress, step.state.guard
    save_points.finish()
    if progress.rollbacks >= config.guard.max_rollbacks:
        raise TrainingError(
            f"{poisoned}, after {progress.rollbacks} rollbacks (guard.max_rollbacks); lower "
            "optimizer.lr=…, or look at the data"
        )
    own = dataclasses.replace(config, resume="auto")  # its checkpoints, however the run itself was started
    point = find_verified(own, config.run_dir, save_points.data, ranks)
    if point is None:
        raise TrainingError(
            f"{poisoned}, and there is no checkpoint to go back to: lower optimizer.lr=…, or type a "
            "smaller checkpoint.every_steps=…"
        )
    ranks.on_rank_zero(lambda: save_points.go_back(point.step))
    restore(step.engine, point, ranks)
    state = point.state(config.guard, ranks.say)
    restored = state.progress
    restored.left_out = progress.left_out + (poisoned.step - restored.step) * config.training.batch_size
    restored.rollbacks = progress.rollbacks + 1
    settings = {key: value for key, value in progress.stretches[-1].items() if key != "from_step"}
    restored.stretches = continued(restored.stretches, restored.step, settings)
    seen = point.content["guard"] | {"skipped": guard.skipped, "spikes": guard.spikes, "in_a_row": 0}
    ranks.say(
        f"{poisoned}: back to step {restored.step} ({point.checkpoint.name}) and past the samples since, "
        f"rollback {restored.rollbacks} of at most {config.guard.max_rollbacks}"
    )
    step.go_on_from(TrainingState(restored, Guard(config.guard, ranks.say, seen), state.init_from))
