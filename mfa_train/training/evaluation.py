"""Held-out loss over the same tokens each time, whoever computes them."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from mfa_train.data.documents import ModelInputs
from mfa_train.data.samples import Samples
from mfa_train.training.ranks import Ranks


@dataclass(frozen=True)
class Evaluation:
    loss: float
    """Nats per token."""
    bits_per_byte: float


class Evaluator:
    """The first `sequences` windows of the held-out text (0: all), dealt out to the ranks in turn.

    `token_bytes` (vocab_size,): bytes of text each token stands for.
    """

    def __init__(self, held_out: Samples, inputs_of: ModelInputs, sequences: int, micro_batch: int, ranks: Ranks,
                 token_bytes: np.ndarray):
        self.samples, self.inputs_of, self.micro_batch, self.ranks = held_out, inputs_of, micro_batch, ranks
        self.count = min(sequences or held_out.windows, held_out.windows)
        self.targets = held_out.at(np.arange(self.count))[:, 1:]
        self.num_bytes = int(token_bytes[self.targets].sum())

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module) -> Evaluation:
        """Evaluates `model(tokens, targets)`, a mean loss. Every rank makes the same number of passes: under ZeRO 3 a
        pass is a collective."""
        model.eval()
        mine = np.arange(self.ranks.rank, self.count, self.ranks.world_size)
        passes = math.ceil(math.ceil(self.count / self.ranks.world_size) / self.micro_batch)
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for index in range(passes):
            windows = mine[index * self.micro_batch : (index + 1) * self.micro_batch]
            inputs, targets, documents = self.inputs_of(self.samples.at(windows if len(windows) else [0]))
            loss = model(inputs, targets, documents=documents)
            total += loss.double() * (len(windows) * self.samples.sequence_length)
        model.train()
        nats = self.ranks.sum(total).item()
        return Evaluation(nats / self.targets.size, nats / (math.log(2) * self.num_bytes))
