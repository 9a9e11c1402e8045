"""The documents of a batch, for attention that stays within each.

Documents of like length are laid side by side, padded at their end, so that one call of an ordinary causal kernel
serves them all: no token looks at the padding behind it, and what the padding looks at is dropped. Scores between
documents are never computed. What it gives up: a copy of queries, keys, values and output.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Documents:
    """Which tokens of a batch (batch, tokens) belong together; `mfa_train.data.reading.documents` finds them.

    Lengths are plain numbers beside the tensors, so that nothing waits for a GPU to tell them.
    """

    positions: Tensor
    """Of each token in its document, (batch, tokens) int64."""
    cu_seqlens: Tensor
    """The documents' starts in the batch's tokens laid end to end, and behind them the end: (documents + 1,) int32."""
    max_length: int
    """Tokens of the longest document."""
    groups: tuple[tuple[int, int], ...]
    """(documents, tokens) of each group of like length, padding included."""
    places: Tensor
    """Each token's row in the groups laid end to end, (batch·tokens,) int64."""

    def to(self, device: torch.device) -> "Documents":
        positions, cu_seqlens, places = (
            tensor.to(device, non_blocking=True) for tensor in (self.positions, self.cu_seqlens, self.places)
        )
        return replace(self, positions=positions, cu_seqlens=cu_seqlens, places=places)

    @property
    def whole_windows(self) -> bool:
        """No document ends inside the batch's windows."""
        return self.groups == (tuple(self.positions.shape),)

    def grouped(self, x: Tensor) -> list[Tensor]:
        """(batch, tokens, heads, dim) as one (documents, tokens, heads, dim) for each group, zeros for padding."""
        sizes = [documents * tokens for documents, tokens in self.groups]
        rows = x.new_zeros(sum(sizes), *x.shape[2:]).index_copy(0, self.places, x.flatten(0, 1))
        return [part.unflatten(0, group) for part, group in zip(rows.split(sizes), self.groups)]

    def ungrouped(self, groups: list[Tensor]) -> Tensor:
        """`grouped` undone."""
        rows = torch.cat([group.flatten(0, 1) for group in groups])
        return rows.index_select(0, self.places).unflatten(0, self.positions.shape)
