"""Tokens, one of each row a step, through the decode cache."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mfa_train.attention.cache import DecodeCache
from mfa_train.errors import DataError
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.rows import few_rows
from mfa_train.model.shared_prompt import hidden_before, padded
from mfa_train.parallel.groups import WHOLE_SEQUENCES, ContextGroup


def generate(
    model: LanguageModel, prompt: Tensor, max_new_tokens: int, *, lengths: Tensor | None = None, **choices: Any
) -> Tensor:
    """Continues `prompt` (batch, tokens) by up to `max_new_tokens`; returns both, (batch, tokens + new).

    Rows of different length stand at the front of theirs, `lengths` (batch,) tokens of each; what stands behind them is
    ignored, and kept: the new tokens of every row begin at the same column. Further `choices` and errors: `decode`.
    """
    new = decode(model, prompt, max_new_tokens, lengths=lengths, **choices)
    return torch.cat((prompt, *(tokens.unsqueeze(1) for tokens in new)), dim=1)


@torch.no_grad()
def decode(
    model: LanguageModel,
    prompt: Tensor,
    max_new_tokens: int,
    *,
    lengths: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    eos_id: int | None = None,
    known: Tensor | None = None,
    ended: Tensor | None = None,
    cache: DecodeCache | None = None,
    sequences: ContextGroup = WHOLE_SEQUENCES,
) -> Iterator[Tensor]:
    """Yields the next tokens (batch,) of the rows of `prompt` (batch, tokens) as they are chosen, `max_new_tokens`
    times, or until every row has ended. `lengths`: as of `generate`.

    temperature 0 is greedy. top_k keeps the k likeliest tokens, top_p the smallest set that holds that probability
    (nucleus sampling, arXiv 1904.09751). A row ends in `eos_id`, and goes on in nothing else; or where the caller has
    set its place in `ended` (batch,) bool. Ids where `known` (ids,) is False, and those behind its end, are never
    drawn. `cache`: an empty one to fill, with room for all (`room`). Equal seeds give equal tokens on one device. The
    ranks of `sequences`, all of which call this alike, read the prompts together. Raises DataError where the model
    gives no probabilities.
    """
    was_training = model.training
    model.eval()
    generator = torch.Generator(device=prompt.device).manual_seed(seed % 2**64)
    batch, longest = prompt.shape
    if cache is None:
        cache = DecodeCache(len(model.model.layers), room(longest, max_new_tokens, sequences))
    ended = torch.zeros(batch, dtype=torch.bool, device=prompt.device) if ended is None else ended
    if lengths is not None and bool((lengths == longest).all()):
        lengths = None
    if lengths is not None:  # padding need not be a token of the model
        prompt = prompt.masked_fill(torch.arange(longest, device=prompt.device) >= lengths.unsqueeze(1), 0)
    last = torch.full((batch,), longest, device=prompt.device) if lengths is None else lengths
    rows, new = torch.arange(batch, device=prompt.device), prompt
    try:
        with few_rows(model):
            for step in range(max_new_tokens):
                if step == 0 and sequences.size > 1:
                    hidden = hidden_before(model, prompt, last, lengths, cache, sequences)
                else:
                    hidden, _ = model.model(new, cache, lengths=lengths if step == 0 else None)
                    hidden = hidden[rows, last - 1] if step == 0 else hidden[:, 0]
                tokens = _next(model.lm_head(hidden).float(), temperature, top_k, top_p, known, generator)
                if eos_id is not None:
                    tokens = tokens.masked_fill(ended, eos_id)
                    ended |= tokens == eos_id
                yield tokens
                if ended.all():
                    break
                new = tokens.unsqueeze(1)
    finally:
        model.train(was_training)


def room(longest: int, max_new_tokens: int, sequences: ContextGroup = WHOLE_SEQUENCES) -> int:
    """The tokens that a cache is made for: of prompts up to `longest` and what follows them."""
    return max(longest + max_new_tokens, padded(longest, sequences))


def _next(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    known: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """(batch,) from logits (batch, vocab_size)."""
    if not logits.isfinite().all():
        raise DataError(
            "the model's logits hold NaN or infinity, so no token can be drawn: its weights have diverged, or are "
            "damaged"
        )
    if known is not None:
        logits = logits[:, : len(known)].masked_fill(~known[: logits.shape[1]], -torch.inf)
    return choose(logits, temperature, top_k, top_p, generator).squeeze(1)


def choose(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> Tensor:
    """The next tokens (batch, 1) from logits (batch, vocab_size); -inf is never drawn."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    # Distances from the likeliest in float64: no temperature above 0, however small or large, overflows to NaN.
    below = (logits - logits.amax(dim=-1, keepdim=True)).double() / temperature
    below = below.masked_fill(logits == -torch.inf, -torch.inf)
    ordered, token = below.float().sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ordered[:, min(top_k, ordered.shape[1]) :] = -torch.inf
    if top_p is not None:
        before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        before[:, 0] = 0.0
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return token.gather(1, torch.multinomial(ordered.softmax(dim=-1), 1, generator=generator))
