"""Back to the last checkpoint and past the data since, when too many steps in a row could not be applied.

The steps are made again with the samples that follow the bad stretch, as the PaLM paper did by hand (arXiv 2204.02311,
section 5.1). The curve then is no longer the one that the config alone would give; the checkpoint and summary.json hold
how many samples were left out, and the terminal tells it.
"""

import dataclasses

from mfa_train.config import Config
from mfa_train.errors import TrainingError
from mfa_train.training.checkpoints.save_points import Checkpoints
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.resuming.starting_point import Progress, restore, starting_point
from mfa_train.training.resuming.stretches import continued
from mfa_train.training.steps.guard import Guard, Poisoned


def roll_back(
    poisoned: Poisoned, engine, config: Config, ranks: Ranks, progress: Progress, guard: Guard, checkpoints: Checkpoints
) -> tuple[Progress, Guard]:
    """Restores the engine and gives the progress and guard to go on with.

    Raises TrainingError where there is no checkpoint, or guard.max_rollbacks are used up.
    """
    checkpoints.finish()
    if progress.rollbacks >= config.guard.max_rollbacks:
        raise TrainingError(
            f"{poisoned}, after {progress.rollbacks} rollbacks (guard.max_rollbacks); lower "
            "optimizer.lr=…, or look at the data"
        )
    own = dataclasses.replace(config, resume="auto")  # its checkpoints, however the run itself was started
    start = ranks.on_first(lambda: starting_point(own, config.run_dir, checkpoints.data, ranks.say))
    if start is None:
        raise TrainingError(
            f"{poisoned}, and there is no checkpoint to go back to: lower optimizer.lr=…, or type a "
            "smaller checkpoint.every_steps=…"
        )
    ranks.on_first(lambda: checkpoints.go_back(start.content["step"]))
    restore(engine, start, ranks)
    restored = start.progress
    restored.left_out = progress.left_out + (poisoned.step - restored.step) * config.training.batch_size
    restored.rollbacks = progress.rollbacks + 1
    now = {key: value for key, value in progress.stretches[-1].items() if key != "from_step"}
    restored.stretches = continued(restored.stretches, restored.step, now)
    kept = start.content["guard"] | {"skipped": guard.skipped, "spikes": guard.spikes, "in_a_row": 0}
    ranks.say(
        f"{poisoned}: back to step {restored.step} ({start.checkpoint.name}) and past the samples since, "
        f"rollback {restored.rollbacks} of at most {config.guard.max_rollbacks}"
    )
    return restored, Guard(config.guard, ranks.say, kept)
