"""How busy the experts were in a step, over all ranks: what moves the bias of the routers' selection, and is logged.

With a bias (model.feed_forward.bias_update_speed) the ranks add up their loads each step, on the device; without one,
where a record is made. A record tells of its own step alone, so a run that was killed and resumed logs the same.

An expert that no record finds with a token for a while is dead: the router no longer finds it, and only balancing will
bring it back. That is told in a line.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mfa_train.feed_forward.balancing import move_bias
from mfa_train.tracking.heat_maps import LOADS
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.steps.state import Progress

RECORDS = 10
"""In a row without a token: then an expert is dead."""


class ExpertLoads:
    """Of the model in `engine`. A model without experts has nothing to tell, and costs nothing."""

    def __init__(self, engine, ranks: Ranks):
        self.decoder, self.ranks = engine.module.model, ranks
        self.biased = [
            layer.mlp for layer in self.decoder.layers if getattr(getattr(layer.mlp, "gate", None), "biased", False)
        ]
        self.load: Tensor | None = None
        """Of the step under way or just taken: tokens that each expert was given (layers, experts)."""
        self.summed = False
        """Whether that is over all ranks."""
        self.told: Tensor | None = None
        """What else the layers told, the mean over this rank's tokens (layers, 2): the entropy of the router's
        probabilities in nats, and the share of choices dropped."""
        mixtures = {number: layer.mlp for number, layer in enumerate(self.decoder.layers) if layer.mlp.per_token}
        self.numbers = list(mixtures)
        """Of the layers with experts, from 0."""
        self.drops = any(getattr(mlp, "capacity_factor", None) is not None for mlp in mixtures.values())
        self.dead = DeadExperts(self.numbers, ranks.say)

    def begin(self) -> None:
        """A step begins."""
        self.decoder.routed = None

    def end(self, applied: bool) -> None:
        """A step is over, and its update was made or not: without it no bias moves."""
        self.load = None
        if self.decoder.routed is None:
            return
        self.load, told, passes = self.decoder.routed
        self.told, self.summed, self.decoder.routed = told / passes, False, None
        if not self.biased:
            return
        self._sum()
        for mlp, load in zip(self.biased, self.load, strict=True):
            if applied:
                move_bias(mlp.gate.e_score_correction_bias, load, mlp.bias_update_speed)

    def record(self, progress: Progress) -> dict[str, Any]:
        """What the record of the step just taken holds; waits for the device, on all ranks."""
        if self.load is None or self.told is None:
            return {}
        self._sum()
        load = self.load.double().cpu()
        self.dead.look_at(progress, load)
        entropy, dropped = self.ranks.sum(self.told.double()).mean(dim=0) / self.ranks.world_size
        share = load / load.sum(dim=1, keepdim=True)
        count = load.shape[1]
        record = {
            "experts/max_load": float((share.max(dim=1).values * count).max()),
            "experts/load_entropy": float(torch.special.entr(share).sum(dim=1).mean()) / math.log(max(2, count)),
            "experts/dead": float((load == 0).double().mean()),
            "experts/router_entropy": float(entropy),
        }
        if self.drops:
            record["experts/dropped"] = float(dropped)
        if self.biased:
            biases = torch.stack([mlp.gate.e_score_correction_bias for mlp in self.biased])
            record["experts/bias_range"] = float((biases.max(dim=1).values - biases.min(dim=1).values).max())
        return record

    def by_layer(self) -> dict[str, Any]:
        """Of the step of the last record, by the layer's number how busy each expert was, in percent of the mean."""
        if self.load is None:
            return {}
        load = self.load.double().cpu()
        percent = (100 * load / load.mean(dim=1, keepdim=True)).round().int().tolist()
        return {LOADS: {str(number): of_layer for number, of_layer in zip(self.numbers, percent)}}

    def _sum(self) -> None:
        if self.load is not None and not self.summed:
            self.load, self.summed = self.ranks.sum(self.load), True


class DeadExperts:
    """Which experts of the `layers` records have found without a token; `say` is given a line when there are some, and
    when they are twice as many as were told of. It counts in the run's progress, so a run that goes on from a
    checkpoint tells what the whole one would."""

    def __init__(self, layers: list[int], say: Callable[[str], None]):
        self.layers, self.say = layers, say

    def look_at(self, progress: Progress, load: Tensor) -> None:
        """`load` (layers, experts) of the step just taken, over all ranks."""
        before = torch.tensor(progress.idle_experts, dtype=torch.long)
        idle = torch.where(load == 0, 1 + (before if before.shape == load.shape else 0), 0)
        progress.idle_experts = idle.tolist()
        dead = idle >= RECORDS
        count = int(dead.sum())
        if count < 2 * progress.dead_experts or not count:
            progress.dead_experts = min(progress.dead_experts, count)  # those that come back may be told of again
            return
        progress.dead_experts, worst = count, int(dead.sum(dim=1).argmax())
        self.say(
            f"warning: step {progress.step}: {count} of {dead.numel()} experts had no token in the last {RECORDS} "
            f"records, most of them in layer {self.layers[worst]}: a larger model.feed_forward.router_aux_loss_coef "
            "or bias_update_speed would bring them back"
        )
