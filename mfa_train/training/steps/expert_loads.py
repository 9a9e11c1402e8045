"""How busy the experts were in a step, over all ranks: what moves the bias of the routers' selection, and is logged.

With a bias (model.feed_forward.bias_update_speed) the ranks add up their loads each step, on the device; without one,
where a record is made. A record tells of its own step alone, so a run that was killed and resumed logs the same.
"""

import math
from typing import Any

import torch
from torch import Tensor

from mfa_train.feed_forward.balancing import move_bias
from mfa_train.training.processes.ranks import Ranks


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
        self.entropy: Tensor | None = None
        """Of the routers' probabilities, the mean over this rank's tokens (layers,) in nats."""

    def begin(self) -> None:
        """A step begins."""
        self.decoder.routed = None

    def end(self, applied: bool) -> None:
        """A step is over, and its update was made or not: without it no bias moves."""
        self.load = None
        if self.decoder.routed is None:
            return
        self.load, entropy, passes = self.decoder.routed
        self.entropy, self.summed, self.decoder.routed = entropy / passes, False, None
        if not self.biased:
            return
        self._sum()
        for mlp, load in zip(self.biased, self.load, strict=True):
            if applied:
                move_bias(mlp.gate.e_score_correction_bias, load, mlp.bias_update_speed)

    def record(self) -> dict[str, Any]:
        """What the record of the step just taken holds; waits for the device, on all ranks."""
        if self.load is None:
            return {}
        self._sum()
        load = self.load.double().cpu()
        share = load / load.sum(dim=1, keepdim=True)
        count = load.shape[1]
        record = {
            "experts/max_load": float((share.max(dim=1).values * count).max()),
            "experts/load_entropy": float(torch.special.entr(share).sum(dim=1).mean()) / math.log(max(2, count)),
            "experts/dead": float((load == 0).double().mean()),
            "experts/router_entropy": float(self.ranks.sum(self.entropy.double()).mean()) / self.ranks.world_size,
        }
        if self.biased:
            biases = torch.stack([mlp.gate.e_score_correction_bias for mlp in self.biased])
            record["experts/bias_range"] = float((biases.max(dim=1).values - biases.min(dim=1).values).max())
        return record

    def _sum(self) -> None:
        if not self.summed:
            self.load, self.summed = self.ranks.sum(self.load), True
