"""Which tokens of a batch belong to one document, found on the CPU before the batch goes to its device.

In the token stream a separator stands behind each document. A document's segment begins at the separator that
precedes it, as if it were the document's own first token: the separator predicts the first token, the last token
predicts the next separator, and every target counts. A window's first token begins a segment too, whatever it is.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mfa_train.attention.documents import Documents, documents_from


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
    return documents_from(starts)
