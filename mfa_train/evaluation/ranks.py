"""What scoring asks of the processes that share it."""

from typing import Protocol

import torch
from torch import Tensor


class Ranks(Protocol):
    """As `mfa_train.training.processes.ranks` has them."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on each of them."""
