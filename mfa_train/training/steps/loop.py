"""The steps of a run: samples in, updates out, a record every so often, a checkpoint every so often.

The loss is summed on the device and read only when a step is logged or saved: between those nothing waits for the
device but DeepSpeed itself, for the gradient's norm.
"""

from collections.abc import Callable, Iterator

import torch

from mfa_train.training.saving.save_points import SavePoints
from mfa_train.training.steps.evaluation import of_average
from mfa_train.training.steps.profiling import Profiling
from mfa_train.training.steps.speed import Speed
from mfa_train.training.steps.step import Taken, TrainingStep
from mfa_train.training.steps.task_scores import TaskScorer


def train(
    step: TrainingStep,
    speed: Speed,
    evaluate: Callable[[torch.nn.Module], dict],
    save_points: SavePoints,
    on_step: Callable[[int], None],
    profiling: Profiling,
    score: TaskScorer | None = None,
) -> Iterator[dict]:
    """Takes `step` from where its state is to the last step of the run, and yields a metrics record for each logged one
    (metrics.jsonl: docs/configuration.md), the last one's always. `on_step` is called with the number of steps done,
    after each and after each evaluation.

    Raises TrainingError where the loss or the gradient's norm is not finite, Poisoned where too many steps in a row
    were skipped, Stopped where a signal asked for it.
    """
    training, state = step.config.training, step.state
    speed.begin(state.progress)
    profiling.between(state.progress.step)
    for done in range(state.progress.step + 1, training.total_steps + 1):
        taken = step.take()
        on_step(done)
        evaluating = done % training.eval_every == 0 or done == training.total_steps
        scoring = score is not None and score.due(done)
        if evaluating or scoring or done % training.log_every == 0 or done == 1:
            record = _record(step, taken, speed) | save_points.told()
            if evaluating:
                record |= evaluate(step.engine) | step.expert_loads.by_layer()
                on_step(done)
            if evaluating and training.ema is not None:
                record |= of_average(step.engine, evaluate)
                on_step(done)
            if score is not None and scoring:
                record |= score(step.engine, done, record["tokens"])
                on_step(done)
            speed.recorded(done)
            yield record
        if save_points.due(done):
            step.losses.read()
            state.progress.seconds = speed.seconds()
            save_points.save(step.engine, state)
        save_points.stop_if_asked(done)
        profiling.between(done)


def _record(step: TrainingStep, taken: Taken, speed: Speed) -> dict:
    """The record of a step that was just taken, with the loss and the speed since the last record."""
    progress, guard = step.state.progress, step.state.guard
    loss, told = step.losses.take_mean(step.phases.of_this_rank())  # waits for the device, so before the clock is read
    progress.seconds = speed.seconds()
    return {
        "step": progress.step,
        **speed.tokens(progress.step),
        "train/loss": loss,
        "lr": taken.lr,
        "grad_norm": taken.grad_norm,
        **speed.since_record(progress.step, progress.seconds),
        "seconds": progress.seconds,
        "skipped_steps": guard.skipped,
        "spikes": guard.spikes,
        **step.batches.progress(taken.samples),
        **step.stages.record(),
        **step.phases.take(told),
        **step.expert_loads.record(progress),
    }
