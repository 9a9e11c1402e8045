"""Contexts continued through the decode cache, for lm-eval's `generate_until`: in batches, shared by the ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mfa_train.data.tokenizer import Tokenizer
from mfa_train.data.tokenizer.growing_text import GrowingText
from mfa_train.errors import ConfigError
from mfa_train.evaluation.ranks import Ranks
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.generation import decode

USUAL_NEW_TOKENS = 256
"""Where a task does not say, as lm-eval's `hf` has it, but no more than half of the context."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the one number, the first that is there counts."""


@dataclass(frozen=True)
class Continuation:
    """How a context goes on."""

    max_new_tokens: int
    until: tuple[str, ...]
    temperature: float
    """0: greedy."""
    top_k: int | None
    top_p: float | None

    @classmethod
    def asked(cls, given: dict[str, Any], context: int) -> "Continuation":
        """By a request's generation_kwargs, of a model that reads `context` tokens. Raises ConfigError where so many
        new ones leave no room for a prompt."""
        named = next((given[name] for name in LENGTHS if given.get(name) is not None), None)
        new = min(USUAL_NEW_TOKENS, max(1, context // 2)) if named is None else int(named)
        if not 1 <= new < context:
            raise ConfigError(
                f"generation_kwargs: max_gen_toks={new}: the model reads {context:,} tokens at once, and a prompt "
                f"needs some of them: type one from 1 to {context - 1:,} in the task's file"
            )
        until = given.get("until") or ()
        temperature = float(given.get("temperature") or 0.0)
        sampled = given.get("do_sample", temperature > 0)
        return cls(
            new,
            tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
            temperature or 1.0 if sampled else 0.0,
            given.get("top_k") or None,
            given.get("top_p"),
        )


def continued(
    model: LanguageModel,
    tokenizer: Tokenizer,
    ranks: Ranks,
    contexts: Sequence[Sequence[int]],
    asked: Sequence[Continuation],
    batch_tokens: int,
    on_pass: Callable[[], None],
) -> list[str]:
    """What follows each of `contexts` (token ids), to before its first stop text, the document's end or its last new
    token. Equal on every rank, and whatever their number."""
    found = torch.zeros((len(contexts), max((how.max_new_tokens for how in asked), default=0)), dtype=torch.int64)
    for how in dict.fromkeys(asked):
        places = [place for place, one in enumerate(asked) if one == how]
        places.sort(key=lambda place: (-len(contexts[place]), contexts[place], place))
        batches = []
        while places:
            count = max(1, batch_tokens // (len(contexts[places[0]]) + how.max_new_tokens))
            batches.append(places[:count])
            places = places[count:]
        for begin in range(0, len(batches), ranks.world_size):
            number = begin + ranks.rank
            mine = batches[number] if number < len(batches) else []
            rows = [contexts[place] for place in mine]
            for place, new in zip(mine, _decoded(model, tokenizer, ranks, rows, how, number, on_pass)):
                found[place, : len(new)] = torch.tensor(new) + 1  # 0: none
    by_text = ranks.sum(found.to(ranks.device)).tolist()
    return [_text(tokenizer, how, [number - 1 for number in row if number]) for how, row in zip(asked, by_text)]


def _decoded(
    model: LanguageModel,
    tokenizer: Tokenizer,
    ranks: Ranks,
    contexts: Sequence[Sequence[int]],
    how: Continuation,
    seed: int,
    on_pass: Callable[[], None],
) -> list[list[int]]:
    """The new tokens of each of this rank's contexts. Every rank makes as many steps as the one that makes the most."""
    texts = [GrowingText(tokenizer, (), how.until) for _ in contexts]
    new: list[list[int]] = [[] for _ in contexts]
    rows = contexts or [[tokenizer.eos_id]]
    lengths = torch.tensor([len(row) for row in rows], device=ranks.device)
    padded = [[*row, *[0] * (int(lengths.max()) - len(row))] for row in rows]
    ended = torch.zeros(len(rows), dtype=torch.bool, device=ranks.device)
    for tokens in decode(
        model,
        torch.tensor(padded, device=ranks.device),
        how.max_new_tokens,
        lengths=lengths,
        temperature=how.temperature,
        top_k=how.top_k,
        top_p=how.top_p,
        seed=seed,
        known=torch.from_numpy(tokenizer.known).to(ranks.device),
        ended=ended,
    ):
        for text, row, token in zip(texts, new, tokens.tolist()):
            if not text.ended:
                text.add(token)
                row.append(token)
        going_on = torch.tensor(sum(not text.ended for text in texts), device=ranks.device)
        if not ranks.sum(going_on):
            ended.fill_(True)
        on_pass()
    return new


def _text(tokenizer: Tokenizer, how: Continuation, tokens: Sequence[int]) -> str:
    text = GrowingText(tokenizer, (), how.until)
    for token in tokens:
        text.add(token)
    text.cut_off()
    return text.text
