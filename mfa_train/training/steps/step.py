"""One step of training: the learning rate, the passes forward and backward, the update.

The update is made inside `engine.step()`. After a step's last pass DeepSpeed reduces the gradients over the ranks,
knows their norm and clips them, and calls the optimizer's `step`. That one (`optimizer.GuardedAdamW`) asks
`TrainingStep.update_applies`, and so the guard, before it changes anything.
"""

from typing import NamedTuple

import numpy as np
import torch

from mfa_train.config import Config
from mfa_train.data.reading.batches import Batches
from mfa_train.data.reading.documents import ModelInputs
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.steps.expert_loads import ExpertLoads
from mfa_train.training.steps.expert_parallel import time_exchanges
from mfa_train.training.steps.gathers import time_gathers
from mfa_train.training.steps.losses import Losses
from mfa_train.training.steps.optimizer import gradient_norm, inner_optimizer
from mfa_train.training.steps.phases import BACKWARD, DATA, FORWARD, OPTIMIZER, Phases
from mfa_train.training.steps.schedule import learning_rate
from mfa_train.training.steps.stages import Stages
from mfa_train.training.steps.state import TrainingState


class Taken(NamedTuple):
    """A step that was taken."""

    lr: float
    grad_norm: float | None
    """Of the whole gradient before clipping; None where it was not finite."""
    samples: int
    """Of the order, that the run has passed with it."""


class TrainingStep:
    """What takes a step: the engine with the samples it is fed, and the state that it moves on.

    `state.progress` counts the steps; the losses are read by whoever looks at them (`losses`).
    """

    def __init__(
        self,
        engine,
        config: Config,
        ranks: Ranks,
        batches: Batches,
        inputs_of: ModelInputs,
        state: TrainingState,
    ):
        self.engine, self.config, self.ranks = engine, config, ranks
        self.batches, self.inputs_of = batches, inputs_of
        groups = ranks.world_size // config.parallel.context
        self.passes = config.training.batch_size // (config.training.micro_batch(groups) * groups)
        self.expert_loads = ExpertLoads(engine, ranks)
        self.stages = Stages(config, engine.module.model, ranks.say)
        self.norm: float | None = None
        """Of the gradient of the step under way, once it was read."""
        self.phases = Phases(ranks)
        if config.zero == 3 and ranks.world_size > 1:
            time_gathers(engine, self.phases)
        time_exchanges(engine, self.phases)
        if inputs_of.sequences.size > 1:
            inputs_of.sequences.waits = self.phases.wait_in_pass
        self.go_on_from(state)
        inner_optimizer(engine).update_applies = self.update_applies

    def go_on_from(self, state: TrainingState) -> None:
        """The next step is the one after `state`, which the engine has been filled for."""
        self.state, self.losses = state, Losses(self.ranks, state)
        self.stages.enter(state.progress.step)

    def take(self) -> Taken:
        """Takes the next step. Raises TrainingError where the loss or the gradient's norm is not finite, and Poisoned
        where too many steps in a row were skipped."""
        config, progress = self.config, self.state.progress
        self.phases.begin()
        self.norm = None
        lr = learning_rate(config.schedule, config.optimizer.lr, progress.step, config.training.total_steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.state.guard.begin()
        self.stages.enter(progress.step)
        self.expert_loads.begin()
        begin = progress.step * config.training.batch_size + progress.left_out
        end = begin + config.training.batch_size
        self._passes_and_update(self.stages.cut(self.batches.of(begin)))
        self.expert_loads.end(self.state.guard.applied)
        progress.step += 1
        grad_norm = self.losses.end_step(
            progress.step, self._gradient_norm(), f"samples {begin} to {end - 1} of the order"
        )
        return Taken(lr, grad_norm, end)

    def _passes_and_update(self, samples: np.ndarray) -> None:
        """`samples` are this rank's, or its context group's, (batch_size / groups, sequence_length + 1), or as many
        tokens in more, shorter ones."""
        loss_of_step = torch.zeros((), device=self.ranks.device)
        for number, windows in enumerate(np.split(samples, self.passes), start=1):
            inputs, targets, beside = self.inputs_of(windows)
            self.phases.end(DATA)
            loss = self.engine(inputs, targets, **beside)
            self.phases.end(FORWARD)
            self.engine.backward(loss)
            loss_of_step += loss.detach() / self.passes
            self.phases.end(BACKWARD)
            if number == self.passes:
                self.losses.add(loss_of_step)  # before the update, for which the guard may need it
            self.engine.step()  # counts the pass; behind the last one it makes the update
            self.phases.end(OPTIMIZER)

    def update_applies(self) -> bool:
        """What the optimizer asks before it makes the update."""
        return self.state.guard.applies(self._gradient_norm(), self.losses.upcoming)

    def _gradient_norm(self) -> float:
        """Of the step's whole gradient, the same number on every rank, read off the device once a step: read again
        behind the update, it would wait for that. Where experts are shared out DeepSpeed adds up its parts in groups of
        some ranks each, and links of several kinds may round differently."""
        if self.norm is None:
            self.norm = gradient_norm(self.engine)
            if self.config.parallel.experts > 1:
                self.norm = self.ranks.largest(self.norm)
        return self.norm
