"""What a pass is given of sequences that ranks share, by the way in which they do."""

import numpy as np
import torch

from mfa_train.attention.documents import documents_from, positions_from
from mfa_train.attention.pieces import pieces_from
from mfa_train.attention.shared import SharedDocuments, SharedSequence
from mfa_train.attention.shared_heads import SharedHeads
from mfa_train.parallel.groups import ContextGroup
from mfa_train.parallel.stretches import stretches


def share(group: ContextGroup, tokens: int, starts: np.ndarray | None, device: torch.device) -> SharedSequence:
    """Of sequences of `tokens`, on `device`. Documents begin where `starts` (batch, tokens) is true; with None
    attention crosses them."""
    if group.by == "heads":
        return SharedHeads(group, tokens, None if starts is None else documents_from(starts).to(device))
    if starts is None:
        return SharedSequence(group, tokens)
    positions = positions_from(starts).to(device, non_blocking=True)
    first, second = (
        pieces_from(starts, begin, end).to(device) for begin, end in stretches(group.rank, group.size, tokens)
    )
    return SharedSequence(group, tokens, SharedDocuments(positions, (first, second)))
