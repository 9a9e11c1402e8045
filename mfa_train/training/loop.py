"""The steps of a run: samples in, updates out, a record every so often.

The loss is summed on the device and read only when a step is logged: between logged steps nothing waits for the device.
"""

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from mfa_train.config import Config
from mfa_train.data.batches import Batches
from mfa_train.data.documents import ModelInputs
from mfa_train.errors import TrainingError
from mfa_train.training.ranks import Ranks
from mfa_train.training.schedule import learning_rate


def train(engine, config: Config, batches: Batches, inputs_of: ModelInputs, ranks: Ranks, flops_per_token: int,
          peak_flops: float | None, evaluate: Callable[[torch.nn.Module], dict], on_step: Callable[[], None]) -> Iterator[dict]:
    """Yields a metrics record for each logged step (DESIGN: `metrics.jsonl`), the last step's always.

    Raises TrainingError when the loss or the gradient's norm is not finite.
    """
    total_steps = config.training.total_steps
    micro_batch = config.training.micro_batch(ranks.world_size)
    passes = config.training.batch_size // (micro_batch * ranks.world_size)
    tokens_per_step = config.training.batch_size * config.training.sequence_length
    start = logged_at = time.perf_counter()
    loss_sum, logged_step = torch.zeros((), device=ranks.device), 0
    for step in range(total_steps):
        lr = learning_rate(config.schedule, config.optimizer.lr, step, total_steps)
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        for windows in np.split(batches.of(step), passes):
            inputs, targets, documents = inputs_of(windows)
            loss = engine(inputs, targets, documents=documents)
            engine.backward(loss)
            engine.step()
            loss_sum += loss.detach()
        on_step()
        done = step + 1
        evaluating = done % config.training.eval_every == 0 or done == total_steps
        if not (evaluating or done % config.training.log_every == 0 or done == 1):
            continue
        mean_loss = ranks.sum(loss_sum).item() / (passes * ranks.world_size * (done - logged_step))
        grad_norm = _number(engine.get_global_grad_norm())
        for what, value in (("loss", mean_loss), ("gradient's norm", grad_norm)):
            if value is not None and not math.isfinite(value):
                raise TrainingError(
                    f"the {what} is {value} between steps {logged_step + 1} and {done}: lower the learning rate "
                    f"(optimizer.lr={config.optimizer.lr / 3:.2g} resume=never) or lengthen schedule.warmup_steps"
                )
        now = time.perf_counter()
        speed = tokens_per_step * (done - logged_step) / (now - logged_at)
        record = {
            "step": done, "tokens": done * tokens_per_step, "flops": done * tokens_per_step * flops_per_token,
            "train/loss": mean_loss, "lr": lr, "grad_norm": grad_norm,
            "tokens_per_second": speed,
            "mfu": peak_flops and speed * flops_per_token / (peak_flops * ranks.world_size), "seconds": now - start,
        }
        record |= batches.progress(done)
        if evaluating:
            record |= evaluate(engine)
        loss_sum.zero_()
        logged_at, logged_step = time.perf_counter(), done
        yield record


def _number(value: torch.Tensor | float | None) -> float | None:
    """DeepSpeed's gradient norm: a tensor, a float, or nothing where it neither clips nor needs it."""
    return None if value is None else float(value)
