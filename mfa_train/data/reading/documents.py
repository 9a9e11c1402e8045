"""Which tokens of a batch belong to one document, found on the CPU before the batch goes to its device.

In the token stream a separator stands behind each document. A document's segment begins at the separator that
precedes it, as if it were the document's own first token: the separator predicts the first token, the last token
predicts the next separator, and every target counts. A window's first token begins a segment too, whatever it is.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mfa_train.attention.documents import Documents

SCORES_A_CALL = 2**15
"""Padding is taken for a call of the kernel less where it costs fewer scores in each head than this."""


@dataclass(frozen=True)
class ModelInputs:
    """What the model is called with, on `device`. With separator None attention crosses documents."""

    device: torch.device
    separator: int | None

    def __call__(self, windows: np.ndarray) -> tuple[Tensor, Tensor, Documents | None]:
        """Inputs and targets (batch, tokens) of windows (batch, tokens + 1), and where asked the inputs' documents."""
        tokens = torch.from_numpy(windows).to(self.device, non_blocking=True).long()  # mostly two bytes a token cross
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        if self.separator is None:
            return inputs, targets, None
        return inputs, targets, find_documents(windows[:, :-1], self.separator).to(self.device)


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
    """To what each of `lengths` is padded: the next of …, 32, 48, 64, 96, …, or one further up where few share it."""
    half_octave = np.maximum(2 ** np.floor(np.log2(lengths)).astype(np.int64) // 2, 1)
    sizes, counts = np.unique(-(-lengths // half_octave) * half_octave, return_counts=True)
    kept, waiting = [], 0
    for size, larger, count in zip(sizes, sizes[1:], counts):
        waiting += count
        if waiting * (larger**2 - size**2) >= SCORES_A_CALL:
            kept.append(size)
            waiting = 0
    kept.append(sizes[-1])
    return np.array(kept)[np.searchsorted(kept, lengths)]
