"""Which tokens of a batch belong to one document, found on the CPU before the batch goes to its device.

In the token stream a separator stands behind each document. A document's segment begins at the separator that precedes
it, as if it were the document's own first token: the separator predicts the first token, the last token predicts the next
separator, and every target counts. A window's first token begins a segment too, whatever it is.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mfa_train.attention.documents import Documents

SHORTEST_PADDED = 32
"""Below it a call of the kernel costs more than its padding."""


@dataclass(frozen=True)
class ModelInputs:
    """What the model is called with, on `device`. With separator None attention crosses documents."""

    device: torch.device
    separator: int | None

    def __call__(self, windows: np.ndarray) -> tuple[Tensor, Tensor, Documents | None]:
        """Inputs and targets (batch, tokens) of windows (batch, tokens + 1), and where asked for the inputs' documents."""
        documents = None if self.separator is None else find_documents(windows[:, :-1], self.separator).to(self.device)
        tokens = torch.from_numpy(windows).to(self.device, non_blocking=True)
        return tokens[:, :-1], tokens[:, 1:], documents


def find_documents(inputs: np.ndarray, separator: int) -> Documents:
    """The documents of inputs (batch, tokens), on the CPU."""
    starts = inputs == separator
    starts[:, 0] = True
    firsts = np.flatnonzero(starts)
    lengths = np.diff(firsts, append=inputs.size)
    document = np.cumsum(starts) - 1
    positions = np.arange(inputs.size) - firsts[document]
    padded = np.minimum(_padded(lengths), inputs.shape[1])
    order = np.argsort(padded, kind="stable")
    begins = np.empty_like(firsts)
    begins[order] = np.cumsum(padded[order]) - padded[order]
    sizes, counts = np.unique(padded, return_counts=True)
    return Documents(
        positions=torch.from_numpy(positions.reshape(inputs.shape)),
        cu_seqlens=torch.from_numpy(np.append(firsts, inputs.size).astype(np.int32)),
        max_length=int(lengths.max()),
        groups=tuple(zip(counts.tolist(), sizes.tolist())),
        places=torch.from_numpy(begins[document] + positions),
    )


def _padded(lengths: np.ndarray) -> np.ndarray:
    """The next of 32, 48, 64, 96, 128, 192, … for each of `lengths`: few groups, at most half of one padding."""
    lengths = np.maximum(lengths, SHORTEST_PADDED)
    half_octave = 2 ** (np.floor(np.log2(lengths)).astype(np.int64) - 1)
    return -(-lengths // half_octave) * half_octave
