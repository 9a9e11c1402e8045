"""Padding and packed documents: which tokens of a batch are read, and where they stand for the layers.

The layers know rows whose tokens stand in front, and documents that each begin at position 0. Wherever a batch's
padding stands, its rows' tokens are moved to the front before the layers, and back behind them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mfa_train.attention.documents import Documents, documents_from
from mfa_train.export.remote.code.cache import EntryCache


class Rows(NamedTuple):
    """How the tokens (batch, tokens) of a batch stand for the layers."""

    order: Tensor | None = None
    """(batch, tokens): where each row's tokens stood, and behind them its padding; None: no row is padded."""
    counts: Tensor | None = None
    """(batch,): tokens that are no padding."""
    documents: Documents | None = None
    """None: every row is one."""
    from_zero: bool = True
    """Positions go on from the cache's, in a row without one from 0."""

    def to_front(self, x: Tensor) -> Tensor:
        """x (batch, tokens, …), its rows' padding behind their tokens."""
        return x if self.order is None else x.gather(1, _as_index(self.order, x))

    def back(self, x: Tensor) -> Tensor:
        """`to_front` undone."""
        return x if self.order is None else torch.empty_like(x).scatter(1, _as_index(self.order, x), x)


def rows_of(
    shape: tuple[int, int], attention_mask: Tensor | None, position_ids: Tensor | None, cache: EntryCache | None
) -> Rows:
    """Of tokens of `shape` (batch, tokens) behind those in `cache`.

    `attention_mask` (batch, cached + tokens): 0 for padding, wherever it stands. `position_ids` (batch, tokens): of
    what is no padding, each is the one before plus 1, or a document begins with it. Raises ValueError.
    """
    real = None if attention_mask is None else _real(shape, attention_mask, cache)
    counts = order = None
    if real is not None:
        counts, order = real.sum(1), real.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
    if position_ids is None:
        return Rows(order, counts)
    if position_ids.ndim > 2 or position_ids.shape[-1] != shape[1]:
        raise ValueError(f"position_ids of shape {tuple(position_ids.shape)}: expected (batch, tokens) = {shape}")
    at = Rows(order).to_front(position_ids.expand(shape))
    starts = torch.ones(shape, dtype=torch.bool, device=at.device)
    starts[:, 1:] = at[:, 1:] != at[:, :-1] + 1
    begins = torch.zeros_like(at[:, 0]) if cache is None or cache.lengths is None else cache.lengths
    from_zero = at[:, 0] == begins + (cache.length if cache is not None and cache.lengths is None else 0)
    if counts is not None:
        starts &= torch.arange(shape[1], device=at.device) < counts.unsqueeze(1)
        starts[:, 0] = True
        from_zero |= counts == 0
    if bool(starts[:, 1:].any()):
        return Rows(order, counts, documents_from(starts.cpu().numpy()).to(at.device), False)
    return Rows(order, counts, None, bool(from_zero.all()))


def _real(shape: tuple[int, int], attention_mask: Tensor, cache: EntryCache | None) -> Tensor | None:
    """(batch, tokens): False for padding; None where there is none."""
    past = 0 if cache is None else cache.length
    expected = (shape[0], past + shape[1])
    if tuple(attention_mask.shape) != expected:
        raise ValueError(
            f"attention_mask of shape {tuple(attention_mask.shape)}: expected (batch, tokens, those in the cache "
            f"included) = {expected}, 0 for padding and 1 for all else; packed documents are told by position_ids"
        )
    seen, real = (attention_mask != 0).split([past, shape[1]], dim=1)
    if past and cache is not None:
        kept = torch.full_like(seen[:, 0], past, dtype=torch.int64) if cache.lengths is None else cache.lengths
        if bool((seen.sum(1) != kept).any()):
            raise ValueError("attention_mask: of the cached tokens it shows others than were shown when they came")
    return None if bool(real.all()) else real


def _as_index(order: Tensor, x: Tensor) -> Tensor:
    """order (batch, tokens) as an index of x (batch, tokens, …)."""
    return order.view(*order.shape, *(1,) * (x.ndim - 2)).expand_as(x)
