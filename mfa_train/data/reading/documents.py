"""Which tokens of a batch belong to one document, found on the CPU before the batch goes to its device.

In the token stream a separator stands behind each document. A document's segment begins at the separator that
precedes it, as if it were the document's own first token: the separator predicts the first token, the last token
predicts the next separator, and every target counts. A window's first token begins a segment too, whatever it is.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mfa_train.attention.documents import Documents, documents_from
from mfa_train.attention.sharing import share
from mfa_train.parallel.groups import WHOLE_SEQUENCES, ContextGroup
from mfa_train.parallel.stretches import stretches


class PassInputs(NamedTuple):
    """What the model is called with in one pass."""

    tokens: Tensor
    """(batch, tokens) int64, of shared sequences this rank's."""
    targets: Tensor
    """Of the same shape."""
    beside: dict[str, Any]
    """Its `documents`, or the `sequence`, where there is something to say."""

    @property
    def positions(self) -> Tensor | None:
        """Of each token in what it reads, (tokens,) or (batch, tokens) int64; None: in whole windows."""
        if (sequence := self.beside.get("sequence")) is not None:
            return sequence.positions(self.tokens.device)
        return self.beside["documents"].positions if "documents" in self.beside else None


@dataclass(frozen=True)
class ModelInputs:
    """What the model is called with, on `device`. With separator None attention crosses documents. The ranks of
    `sequences` share each window."""

    device: torch.device
    separator: int | None
    sequences: ContextGroup = WHOLE_SEQUENCES

    def __call__(self, windows: np.ndarray) -> PassInputs:
        """Of windows (batch, tokens + 1)."""
        own = windows[:, self._places(windows.shape[1] - 1)] if self.sequences.size > 1 else windows[:, None]
        tokens = torch.from_numpy(own).to(self.device, non_blocking=True).long()  # mostly two bytes a token cross
        inputs, targets = tokens[..., :-1].flatten(1), tokens[..., 1:].flatten(1)
        return PassInputs(inputs, targets, self._beside(windows[:, :-1]))

    def _places(self, tokens: int) -> np.ndarray:
        """In the window, of this rank's stretches, each with the token behind it: (stretches, …)."""
        own = stretches(self.sequences.rank, self.sequences.size, tokens)
        return np.stack([np.arange(begin, end + 1) for begin, end in own])

    def _beside(self, inputs: np.ndarray) -> dict[str, Any]:
        if self.sequences.size > 1:
            starts = None if self.separator is None else document_starts(inputs, self.separator)
            return {"sequence": share(self.sequences, inputs.shape[1], starts, self.device)}
        return {} if self.separator is None else {"documents": find_documents(inputs, self.separator).to(self.device)}


def document_starts(inputs: np.ndarray, separator: int) -> np.ndarray:
    """Where documents begin in inputs (batch, tokens)."""
    starts = inputs == separator
    starts[:, 0] = True
    return starts


def find_documents(inputs: np.ndarray, separator: int) -> Documents:
    """The documents of inputs (batch, tokens), on the CPU."""
    return documents_from(document_starts(inputs, separator))
