"""An exponential moving average of the weights (training.ema), beside the float32 masters that a rank keeps.

    average <- d · average + (1 - d) · master    behind each update that was made,    d = min(ema, t / (t + 9))

with t the updates that AdamW has made, this one counted. It begins with the masters themselves; the smaller d of the
first updates lets go of that start, so no bias is left to be corrected: the rule of TensorFlow's
ExponentialMovingAverage with num_updates, which is t - 1. Until t reaches 9 · ema / (1 - ema), 8,991 updates at 0.999,
the weights in it are on average a tenth of the run old.

What it gives up: at stage 0 each rank averages all masters, as each updates all of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

WARMUP = 9
"""Updates after which d is a half."""
AT_ONCE = 2**22
"""Values that are exchanged at a time."""


class WeightAverage:
    """Of the flat masters that one rank's optimizer updates, on the device of each. An update reads nothing off the
    device, and asks no other rank."""

    def __init__(self, decay: float):
        self.decay = decay
        self.averages: dict[Tensor, Tensor] = {}
        """By master; each begins when it is first asked for."""

    def of(self, master: Tensor) -> Tensor:
        """The average of `master`, float32 and shaped as it."""
        if master not in self.averages:
            self.averages[master] = master.detach().clone()
        return self.averages[master]

    def begin_anew(self) -> None:
        """Lets go of what was averaged: it begins with the masters as they are next seen."""
        self.averages.clear()

    @torch.no_grad()
    def follow(self, masters: Sequence[Tensor], updates: Tensor) -> None:
        """Takes in masters that were just updated for the `updates`-th time, a number on their device."""
        share = (WARMUP / (updates + WARMUP)).clamp_(min=1 - self.decay)
        for master in masters:
            self.of(master).lerp_(master, share)

    @contextmanager
    def in_place_of_masters(self) -> Iterator[None]:
        """Within the block masters hold the averages, and these the masters; behind it both are what they were, to the
        bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for master, average in self.averages.items():
            pairs = zip(master.view(-1).split(AT_ONCE), average.view(-1).split(AT_ONCE))
            for part, other in pairs:
                kept = part.clone()
                part.copy_(other)
                other.copy_(kept)
