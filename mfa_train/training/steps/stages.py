"""The stage of `training.sequence_schedule` that a run is in: how its windows are cut, and how its model turns
positions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mfa_train.attention.stages import rope_of
from mfa_train.config import Config
from mfa_train.data.reading.cut import cut
from mfa_train.model.decoder import Decoder


class Stages:
    """Of `decoder`, which is in the stage that was entered last. Without a schedule there is one, and nothing changes.

    `say` is told of each stage that is entered.
    """

    def __init__(self, config: Config, decoder: Decoder, say: Callable[[str], None]):
        self.config, self.decoder, self.say = config, decoder, say
        self.now = config.training.stages[-1]
        """As the model was built."""

    def enter(self, step: int) -> None:
        """Makes the model that of `step`, the first being 0."""
        stage = self.config.training.stage_of(step)
        if stage == self.now:
            return
        if stage.rope != self.now.rope:
            self.decoder.rope = rope_of(self.config, stage)
        if self.config.training.compile:
            torch.compiler.reset()  # else the layers are compiled for any length, which a run that goes on here is not
        self.now = stage
        tokens = stage.first_step * self.config.training.tokens_per_step
        turned = "".join(f", {key}={'none' if value is None else value}" for key, value in stage.rope.items())
        self.say(
            f"sequences of {stage.sequence_length:,} tokens{turned} from step {stage.first_step + 1:,} on, behind "
            f"{tokens:,} tokens"
        )

    def cut(self, windows: np.ndarray) -> np.ndarray:
        """Windows (batch, sequence_length + 1) as the stage's sequences."""
        return cut(windows, self.now.sequence_length)

    def record(self) -> dict[str, Any]:
        """What a record tells, where there is a schedule."""
        scheduled = self.config.training.sequence_schedule is not None
        return {"data/sequence_length": self.now.sequence_length} if scheduled else {}
