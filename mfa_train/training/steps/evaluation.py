"""Held-out loss over the same tokens each time, whoever computes them."""

import math
from collections.abc import Callable

import numpy as np
import torch

from mfa_train.data.reading.cut import cut
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.run_data import RunData
from mfa_train.training.saving.engine_state import averaged_weights
from mfa_train.training.steps.by_position import LossByPosition
from mfa_train.training.steps.stages import Stages


def of_average(engine, evaluate: Callable[[torch.nn.Module], dict[str, float]]) -> dict[str, float]:
    """Metrics of the average of the engine's weights: `evaluate`'s, val_ema/… in place of val/…. What follows is, to
    the bit, what it would have been."""
    with averaged_weights(engine):
        return {name.replace("val/", "val_ema/", 1): value for name, value in evaluate(engine).items()}


class Evaluator:
    """The held-out windows, each corpus's dealt out in turn to the ranks, or to the groups of them that share
    sequences, `micro_batch` of them in a pass. With `by_position` its metrics have the loss by position too."""

    def __init__(
        self, data: RunData, micro_batch: int, ranks: Ranks, by_position: bool = False, stages: Stages | None = None
    ):
        """stages: windows are read as those that are trained on now; without them whole."""
        self.by_position, self.stages = by_position, stages
        self.held_out, self.inputs_of, self.micro_batch, self.ranks = data.held_out, data.inputs_of, micro_batch, ranks
        self.mine = data.batches.mine
        token_bytes = data.tokenizer.token_bytes
        self.on_pass: Callable[[], None] = lambda: None
        """Called after every pass."""
        targets = {
            name: self.held_out.at(name, windows)[:, 1:]
            for name, windows in self.held_out.windows.items()
            if len(windows)
        }
        self.targets = np.concatenate([tokens.ravel() for tokens in targets.values()])
        self.sizes = {name: (tokens.size, int(token_bytes[tokens].sum())) for name, tokens in targets.items()}
        """Tokens and bytes of text of each corpus."""

    @property
    def sequence_length(self) -> int:
        """Of what is read of the windows now."""
        return self.stages.now.sequence_length if self.stages else self.held_out.sequence_length

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module) -> dict[str, float]:
        """Metrics of `model(tokens, targets)`, a mean loss: val/loss (nats per token) and val/bits_per_byte, of several
        corpora each one's too. Every rank makes the same number of passes: under ZeRO 3 a pass is a collective."""
        by_position = LossByPosition(self.sequence_length, self.ranks.device) if self.by_position else None
        model.eval()
        nats = {name: self._nats(model, name, by_position) for name in self.sizes}
        model.train()
        of_all = {"": (sum(nats.values()), *map(sum, zip(*self.sizes.values())))}
        of_each = {f"/{name}": (nats[name], *self.sizes[name]) for name in nats} if len(nats) > 1 else {}
        metrics = {}
        for name, (total, tokens, num_bytes) in (of_all | of_each).items():
            metrics[f"val/loss{name}"] = total / tokens
            # No bytes: separators alone.
            metrics[f"val/bits_per_byte{name}"] = total / (math.log(2) * num_bytes) if num_bytes else math.nan
        return metrics | (by_position.metrics(self.ranks.sum) if by_position else {})

    def _nats(self, model: torch.nn.Module, name: str, by_position: LossByPosition | None) -> float:
        """The sum over all targets of corpus `name`, on every rank; each target's loss goes to `by_position`, of this
        rank's."""
        windows = self.held_out.windows[name]
        mine = windows[self.mine.rank :: self.mine.world_size]
        passes = math.ceil(math.ceil(len(windows) / self.mine.world_size) / self.micro_batch)
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for index in range(passes):
            part = mine[index * self.micro_batch : (index + 1) * self.micro_batch]
            whole = self.held_out.at(name, part if len(part) else windows[:1])
            read = self.inputs_of(cut(whole, self.sequence_length))
            if by_position is None:
                loss = model(read.tokens, read.targets, **read.beside)
            else:
                loss, losses = model(read.tokens, read.targets, **read.beside, each=True)
                if len(part):
                    by_position.add(losses, read.positions)
            total += loss.double() * (read.tokens.numel() if len(part) else 0)
            self.on_pass()
        return self.ranks.sum(total).item()
