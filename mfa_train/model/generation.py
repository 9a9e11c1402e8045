"""Text, token by token, through the decode cache."""

import torch
from torch import Tensor

from mfa_train.attention.cache import DecodeCache
from mfa_train.errors import DataError
from mfa_train.model.decoder import LanguageModel


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    eos_id: int | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Continues `prompt` (batch, tokens) by up to `max_new_tokens`; returns both, (batch, tokens + new).

    temperature 0 is greedy. top_k keeps the k likeliest tokens, top_p the smallest set that holds that probability
    (nucleus sampling, arXiv 1904.09751). Stops early when every sequence has ended in `eos_id`. Ids where `known`
    (ids,) is False, and those behind its end, are never drawn. Equal seeds give equal text on one device. Raises
    DataError where the model gives no probabilities.
    """
    was_training = model.training
    model.eval()
    generator = torch.Generator(device=prompt.device).manual_seed(seed % 2**64)
    cache = DecodeCache(len(model.model.layers), prompt.shape[1] + max_new_tokens)
    tokens, new = prompt, prompt
    ended = torch.zeros(prompt.shape[0], 1, dtype=torch.bool, device=prompt.device)
    for _ in range(max_new_tokens):
        hidden = model.model(new, cache)[:, -1:]
        logits = model.lm_head(hidden)[:, 0].float()
        if not logits.isfinite().all():
            raise DataError(
                "the model's logits hold NaN or infinity, so no token can be drawn: its weights have diverged, or are "
                "damaged"
            )
        if known is not None:
            logits = logits[:, : len(known)].masked_fill(~known[: logits.shape[1]], -torch.inf)
        new = choose(logits, temperature, top_k, top_p, generator)
        if eos_id is not None:
            new = torch.where(ended, eos_id, new)
            ended |= new == eos_id
        tokens = torch.cat((tokens, new), dim=1)
        if eos_id is not None and ended.all():
            break
    model.train(was_training)
    return tokens


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
