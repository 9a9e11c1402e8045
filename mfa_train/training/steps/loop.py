"""The steps of a run: samples in, updates out, a record every so often, a checkpoint every so often.

The loss is summed on the device and read only when a step is logged or saved: between those nothing waits for the
device but DeepSpeed itself, for the gradient's norm.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from mfa_train.budget.peak import Peak
from mfa_train.config import Config
from mfa_train.data.reading.batches import Batches
from mfa_train.data.reading.documents import ModelInputs
from mfa_train.training.checkpoints.save_points import Checkpoints
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.resuming.starting_point import Progress
from mfa_train.training.steps.guard import Guard
from mfa_train.training.steps.losses import Losses
from mfa_train.training.steps.optimizer import gradient_norm, inner_optimizer
from mfa_train.training.steps.schedule import learning_rate


def train(
    engine,
    config: Config,
    batches: Batches,
    inputs_of: ModelInputs,
    ranks: Ranks,
    flops_per_token: int,
    peak: Peak,
    evaluate: Callable[[torch.nn.Module], dict],
    on_step: Callable[[int], None],
    progress: Progress,
    guard: Guard,
    checkpoints: Checkpoints,
) -> Iterator[dict]:
    """Yields a metrics record for each logged step (metrics.jsonl: docs/configuration.md), the last step's always. Goes
    on from `progress` and keeps it.

    Raises TrainingError where the loss or the gradient's norm is not finite, Poisoned where too many steps in a row
    were skipped, Stopped where a signal asked for it.
    """
    total_steps = config.training.total_steps
    micro_batch = config.training.micro_batch(ranks.world_size)
    passes = config.training.batch_size // (micro_batch * ranks.world_size)
    tokens_per_step = config.training.batch_size * config.training.sequence_length
    losses = Losses(ranks, guard, progress)
    inner_optimizer(engine).applies = lambda: guard.applies(gradient_norm(engine), losses.upcoming)
    start, logged_at, logged_step = time.perf_counter() - progress.seconds, time.perf_counter(), progress.step
    for step in range(progress.step, total_steps):
        lr = learning_rate(config.schedule, config.optimizer.lr, step, total_steps)
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        guard.begin()
        step_loss = torch.zeros((), device=ranks.device)
        first_sample = step * config.training.batch_size + progress.left_out
        for micro, windows in enumerate(np.split(batches.of(first_sample), passes)):
            inputs, targets, documents = inputs_of(windows)
            loss = engine(inputs, targets, documents=documents)
            engine.backward(loss)
            step_loss += loss.detach() / passes
            if micro == passes - 1:
                losses.add(step_loss)
            engine.step()
        done = progress.step = step + 1
        grad_norm = losses.end_step(
            done,
            gradient_norm(engine),
            f"samples {first_sample} to {first_sample + config.training.batch_size - 1} of the order",
        )
        on_step(done)
        evaluating = done % config.training.eval_every == 0 or done == total_steps
        if evaluating or done % config.training.log_every == 0 or done == 1:
            mean_loss = losses.take_mean()
            now = time.perf_counter()
            progress.seconds = now - start
            speed = tokens_per_step * (done - logged_step) / (now - logged_at)
            record = (
                {
                    "step": done,
                    "tokens": done * tokens_per_step,
                    "flops": done * tokens_per_step * flops_per_token,
                    "train/loss": mean_loss,
                    "lr": lr,
                    "grad_norm": grad_norm,
                    "tokens_per_second": speed,
                    "mfu": peak.share(speed * flops_per_token / ranks.world_size),
                    "seconds": progress.seconds,
                    "skipped_steps": guard.skipped,
                    "spikes": guard.spikes,
                }
                | batches.progress(first_sample + config.training.batch_size)
                | checkpoints.blocking()
            )
            if evaluating:
                record |= evaluate(engine)
                on_step(done)
            logged_at, logged_step = time.perf_counter(), done
            yield record
        if checkpoints.due(done):
            losses.read()
            progress.seconds = time.perf_counter() - start
            checkpoints.save(engine, progress, guard)
        checkpoints.stop_if_asked(done)
