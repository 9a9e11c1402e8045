"""Prompts that the ranks of a context group read together: each its stretches, and all have the whole cache then.

Decoding goes on on every rank by itself. A new token is one row of work, of which nothing is left to share out.
"""

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mfa_train.attention.cache import DecodeCache
from mfa_train.attention.shared import SharedSequence
from mfa_train.model.decoder import LanguageModel
from mfa_train.parallel.groups import ContextGroup
from mfa_train.parallel.stretches import local, stretches


def padded(tokens: int, group: ContextGroup) -> int:
    """Of prompts of `tokens`, with what is laid behind them so that they divide into equal stretches."""
    return tokens if group.size == 1 else -(-tokens // (2 * group.size)) * 2 * group.size


def hidden_before(
    model: LanguageModel, prompt: Tensor, ends: Tensor, lengths: Tensor | None, cache: DecodeCache, group: ContextGroup
) -> Tensor:
    """The hidden states (batch, hidden_size) of the last token before `ends` (batch,) in each row of `prompt` (batch,
    tokens), the same on all ranks of the `group`. The empty `cache` is filled as one rank would fill it. `lengths`: as
    of `decode`."""
    longest = prompt.shape[1]
    whole = F.pad(prompt, (0, padded(longest, group) - longest))
    sequence = SharedSequence(group, whole.shape[1])
    hidden, _ = model.model(local(whole, group), cache, lengths=lengths, sequence=sequence)
    cache.cut(longest)
    return _at(ends - 1, hidden, sequence)


def _at(places: Tensor, hidden: Tensor, sequence: SharedSequence) -> Tensor:
    """hidden[row, places[row]] of all tokens (batch, dims), where each rank has the hidden states of its own (batch,
    local tokens, dims)."""
    group, found = sequence.group, hidden.new_zeros(len(hidden), hidden.shape[2])
    for part, (begin, end) in zip(hidden.chunk(2, dim=1), stretches(group.rank, group.size, sequence.tokens)):
        here = (begin <= places) & (places < end)
        found[here] = part[here, places[here] - begin]
    group.waits(lambda: dist.all_reduce(found, group=group.handle))  # of one rank's values and the others' zeros
    return found
