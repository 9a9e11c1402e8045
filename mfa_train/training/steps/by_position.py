"""Held-out loss by how much a token can read: what shows whether an attention uses its context.

A target's position counts the tokens that its prediction may look at, itself the last: from 1 to the sequence length,
in a stage of `training.sequence_schedule` that stage's, and with `data.document_mask` from each document's first token.
Positions are taken together by doubling, 1 | 2 | 3–4 | 5–8 | …, and a bin is named by its last: the field draws this
loss over the position's logarithm (arXiv 2001.08361, appendix D.5; arXiv 2309.16039 fits a law to it).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mfa_train.tracking.by_position import NAME


class LossByPosition:
    """Losses of targets, summed by position up to `sequence_length`."""

    def __init__(self, sequence_length: int, device: torch.device):
        bins = (sequence_length - 1).bit_length() + 1
        self.last = [min(2**place, sequence_length) for place in range(bins)]
        """Position of each bin."""
        self.ends = torch.tensor(self.last, device=device)
        self.sums = torch.zeros((2, bins), dtype=torch.float64, device=device)
        """Nats, targets."""

    def add(self, losses: Tensor, index: Tensor | None = None) -> None:
        """losses (batch, tokens), nats; index (tokens,) or (batch, tokens): of each token its place in what it reads,
        from 0. None: the tokens are whole windows."""
        if index is None:
            index = torch.arange(losses.shape[1], device=losses.device)
        bins = torch.bucketize(index + 1, self.ends).expand(losses.shape).flatten()
        nats = losses.flatten().double()
        for place in range(len(self.last)):  # a GPU's index_add adds in another order each time
            there = bins == place
            self.sums[0, place] += torch.where(there, nats, 0).sum()
            self.sums[1, place] += there.sum()

    def metrics(self, over_ranks: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The mean of each bin that has a target, NAME and its last position, in nats; `over_ranks` sums over all."""
        nats, targets = over_ranks(self.sums.clone()).tolist()
        return {f"{NAME}{last}": total / count for last, total, count in zip(self.last, nats, targets) if count}
