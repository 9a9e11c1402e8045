"""AdamW (arXiv 1711.05101), with a last word on whether a step's update is applied, and an average that follows it."""

from collections.abc import Callable
from typing import Any

import torch

from mfa_train.config import Config
from mfa_train.parallel.parameters import local_shape
from mfa_train.training.steps.average import WeightAverage
from mfa_train.training.steps.expert_parallel import group_name, shared_out


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that asks `update_applies` before each update; where it says no, nothing changes: not the weights, the
    moments, or the count of updates.

    DeepSpeed calls `step`, inside `engine.step()`, once the gradients are reduced and their norm is known, at some
    stages several times a step. What answers there is `step.TrainingStep.update_applies`.
    """

    update_applies: Callable[[], bool] = staticmethod(lambda: True)
    average: WeightAverage | None = None
    """Of the masters: training.ema."""

    def step(self, closure=None):
        if not self.update_applies():
            return None
        if self.average is None:
            return super().step(closure)
        # DeepSpeed's stages 2 and 3 hand over one group at a time.
        masters = [master for group in self.param_groups for master in group["params"] if master.grad is not None]
        for master in masters:
            self.average.of(master)  # which begins before the first update
        result = super().step(closure)
        if masters:
            self.average.follow(masters, self.state[masters[0]]["step"])
        return result


def make_optimizer(model: torch.nn.Module, config: Config) -> GuardedAdamW:
    """The optimizer of `model`; its learning rate is 0 until it is set. Matrices are decayed, vectors (norms) not."""
    shared = shared_out(model)
    mine = {id(parameter) for parameter in shared}
    parameters = [parameter for parameter in model.parameters() if id(parameter) not in mine]
    matrices = [parameter for parameter in parameters if len(local_shape(parameter)) >= 2]
    vectors = [parameter for parameter in parameters if len(local_shape(parameter)) < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.optimizer.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if shared:  # DeepSpeed reduces a group of experts over the ranks that have the same
        name = group_name(config.parallel.experts)
        groups.append({"params": shared, "weight_decay": config.optimizer.weight_decay, "moe": True, "name": name})
    beta1, beta2 = config.optimizer.betas
    return GuardedAdamW(groups, lr=0.0, betas=(beta1, beta2), eps=config.optimizer.eps, fused=True)


def inner_optimizer(engine) -> GuardedAdamW:
    """The optimizer inside DeepSpeed's wrapper, or the engine's own where there is no wrapper."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def gradient_norm(engine) -> float:
    """The norm of the whole gradient before clipping, the same on every rank; inf where it is not finite.

    It is known from the moment the update is about to be made: DeepSpeed's wrappers have waited for it themselves, to
    clip.
    """
    owner = engine.optimizer if hasattr(engine.optimizer, "_global_grad_norm") else engine
    norm = float(owner._global_grad_norm)
    return norm if 0 <= norm < float("inf") else float("inf")
