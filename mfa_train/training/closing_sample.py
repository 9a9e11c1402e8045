"""Text from a model, as a run closes and as `mfa-train generate` prints it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfa_train.attention.cache import DecodeCache
from mfa_train.attention.cache_types import cache_dtype, held_in
from mfa_train.budget.devices import planned_device
from mfa_train.budget.shape import measure
from mfa_train.checkpoints.model import model_of
from mfa_train.checkpoints.weights import FINAL, weights_of
from mfa_train.config import Config
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.data.tokenizer.growing_text import GrowingText
from mfa_train.errors import ConfigError, UserError
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.generation import decode, room
from mfa_train.parallel.groups import WHOLE_SEQUENCES, ContextGroup
from mfa_train.training.processes.ranks import Ranks, local_world_size


@dataclass(frozen=True)
class Samples:
    """Of one decoding."""

    texts: list[GrowingText]
    """Those of the first prompt, of the second, …"""
    seconds: float
    """From the prompts to the last token decoded."""
    first: float
    """Of them until the first token: the prompts' own."""
    cache: DecodeCache
    memory: str = ""
    """What is said of its ranks', where several read the prompts together."""

    @property
    def tokens(self) -> int:
        """Decoded, of all texts."""
        return sum(text.tokens for text in self.texts)

    def told(self) -> str:
        """Speed and cache in one line."""
        name = held_in("auto", self.cache.layers[0].buffers[0].dtype)
        behind, seconds = self.tokens - len(self.texts), self.seconds - self.first
        speed = f", then {behind / seconds:,.0f} tokens/s" if behind > 0 else ""
        return (
            f"{self.tokens:,} tokens in {self.seconds:.1f} s, the first after {self.first:.2f} s{speed}; "
            f"cache {self.cache.num_bytes:,} bytes, {self.cache.bytes_per_token:,} a token ({name}){self.memory}"
        )


def make_samples(
    config: Config,
    model: LanguageModel,
    tokenizer: Tokenizer,
    device: torch.device,
    prompts: Sequence[str],
    *,
    num_samples: int = 1,
    stop: Sequence[str] = (),
    on_token: Callable[[list[GrowingText]], None] = lambda texts: None,
    agree: Callable[[Tensor], Any] | None = None,
    sequences: ContextGroup = WHOLE_SEQUENCES,
) -> Samples:
    """Each of `prompts`, as the start of a document, and what the model makes of it, `num_samples` times, all decoded
    in one batch. A text ends with its document, before one of the texts `stop`, or after sample.max_new_tokens.
    `on_token` is called before the first step, after every one, and once nothing follows; `agree` with each step's
    tokens before they count: where several ranks decode one text together, all must take the same. The ranks of
    `sequences` read the prompts together.

    Ids that are no token of the tokenizer (a model's vocabulary may be larger) are never drawn. Raises ConfigError for
    a prompt that is no text, more of them than the memory holds and a cache.dtype that the device cannot hold,
    DataError for a model that gives no probabilities.
    """
    sample, rows = config.sample, []
    for word in stop:
        _require_text("--stop", word)
    for prompt in prompts:
        _require_text("sample.prompt", prompt)
        rows += [tokenizer.encode([prompt])[0].tolist()] * num_samples
    texts = [GrowingText(tokenizer, row, stop) for row in rows]
    lengths = torch.tensor([1 + len(row) for row in rows], device=device)
    longest = int(lengths.max())
    if device.type == "cpu":
        _require_memory(config, model.lm_head.weight.dtype, len(rows), longest, sequences.size)
    padded = [[tokenizer.eos_id, *row] + [tokenizer.eos_id] * (longest - 1 - len(row)) for row in rows]
    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    capacity = room(longest, sample.max_new_tokens, sequences)
    cache = DecodeCache(len(model.model.layers), capacity, cache_dtype(config.cache.dtype, device))
    on_token(texts)
    begin, first = time.perf_counter(), 0.0
    for tokens in decode(
        model,
        torch.tensor(padded, device=device),
        sample.max_new_tokens,
        lengths=lengths,
        temperature=sample.temperature,
        top_k=sample.top_k,
        top_p=sample.top_p,
        seed=config.seed,
        eos_id=tokenizer.eos_id,
        known=torch.from_numpy(tokenizer.known).to(device),
        ended=ended,
        cache=cache,
        sequences=sequences,
    ):
        if agree is not None:
            agree(tokens)
        first = first or time.perf_counter() - begin
        for row, token in enumerate(tokens.tolist()):
            if not texts[row].ended:
                texts[row].add(token)
        ended.copy_(torch.tensor([text.ended for text in texts]))
        on_token(texts)
    seconds = time.perf_counter() - begin
    for text in texts:
        text.cut_off()
    on_token(texts)
    return Samples(texts, seconds, first, cache)


def closing_sample(config: Config, model: LanguageModel, tokenizer: Tokenizer, ranks: Ranks) -> str:
    """A sample as a paragraph, where a run closes and asks for one; the run is whole without it. All ranks decode it,
    in equally many passes: these may be collectives."""
    if not config.sample.max_new_tokens:
        return ""
    try:
        prompts = [config.sample.prompt]
        together = config.zero == 3 or config.parallel.experts > 1  # else no rank's pass waits for another's
        agree = ranks.as_on_rank_zero if together else None
        samples = make_samples(config, model, tokenizer, ranks.device, prompts, agree=agree)
        text = samples.texts[0].text
    except UserError as error:
        text = f"(none: {error})"
    return f"A sample:\n\n{text}\n\n"


def samples_from_run(
    config: Config, folder: Path, prompts: Sequence[str], checkpoint: str = FINAL, **how: Any
) -> Samples:
    """`make_samples` of the run in `folder`, of its final weights or of another `checkpoint`. Raises DataError where it
    has none."""
    device = torch.device("cpu")
    cache_dtype(config.cache.dtype, device)
    weights = weights_of(folder, config, checkpoint)
    return make_samples(config, model_of(weights), weights.tokenizer(), device, prompts, **how)


def sample_from_run(config: Config, folder: Path) -> str:
    """The text of one sample of the run's own prompt."""
    return samples_from_run(config, folder, [config.sample.prompt]).texts[0].text


def _require_text(key: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{key}={text!a}: character {error.start + 1} is half of a surrogate pair, no text; type it in UTF-8"
        ) from error


def _require_memory(config: Config, dtype: torch.dtype, rows: int, longest: int, ranks: int) -> None:
    """Raises ConfigError where prompts of up to `longest` tokens, decoded in so many rows, have no room in this
    machine's memory: their cache, and what a layer makes of all of them at once, which `ranks` share."""
    shape = measure(config.model, config.attention)
    widths = 4 * config.model.hidden_size + 3 * config.model.intermediate_size
    of_token = shape.cache_bytes(held_in(config.cache.dtype, dtype)) + dtype.itemsize * widths / ranks
    needed, memory = rows * longest * of_token, planned_device("cpu", local_world_size()).memory_bytes
    if needed > memory:
        raise ConfigError(
            f"--num-samples: {rows:,} texts behind prompts of up to {longest:,} tokens need about "
            f"{needed / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f}: type a smaller --num-samples, or "
            "fewer or shorter prompts"
        )
