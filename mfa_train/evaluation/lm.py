"""Our model as lm-eval asks it: log-likelihoods of continuations, of whole texts, and text that goes on.

1. Text becomes tokens as in training: a context begins with the separator, which stands before each document there.
   A continuation's tokens are what the tokens of context and continuation have behind those of the context alone, as
   lm-eval's `hf` cuts them.
2. Requests whose inputs are equal (one context before several continuations of one token, say) are one row; rows of
   one context read it once, into a cache. They are sorted by length and go in batches of `batch_tokens`, padded behind:
   a causal model never sees that. The batches are a function of the requests alone.
3. The ranks take the batches in turn; each makes as many passes as the others, since under ZeRO 3 a pass is a
   collective. Their sums are everyone's, so every rank answers every request.

The softmax is over all ids of the model's vocabulary, those that are no token of the tokenizer among them, as the
training loss has it. A context longer than the model's is cut on the left, and counted in `truncated`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor, nn

from mfa_train.attention.cache import DecodeCache
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.evaluation.continued import Continuation, continued
from mfa_train.evaluation.ranks import Ranks

Asked = tuple[tuple[str, str] | None, list[int], list[int]]
"""What was asked for, and the ids of its context and of its continuation."""


class Target(NamedTuple):
    """An id that a request asks for, behind a place of a row."""

    request: int
    place: int
    token: int


@dataclass
class Row:
    """Inputs, and what is asked of them."""

    tokens: tuple[int, ...]
    read: int
    """How many stand before the one behind which the first target is: the context, but for its last token."""
    targets: list[Target] = field(default_factory=list)


class Group(NamedTuple):
    """Rows that begin with the same tokens."""

    common: int
    """How many of them are read once, for all."""
    rows: list[Row]

    @property
    def longest(self) -> int:
        return max(len(row.tokens) for row in self.rows)


class RunLM(TemplateLM):
    """`model`, a LanguageModel or the engine around one, with its tokenizer. `context`: tokens that it reads at once.

    `on_pass` is called after each pass. lm-eval sees one process, on every rank.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        ranks: Ranks,
        *,
        context: int,
        batch_tokens: int,
        on_pass: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self.model, self.run_tokenizer, self.ranks = model, tokenizer, ranks
        self.context, self.batch_tokens, self.on_pass = context, batch_tokens, on_pass
        self.truncated = 0
        """Requests whose context was cut."""

    @property
    def eot_token_id(self) -> int:
        return self.run_tokenizer.eos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        begin = [] if add_special_tokens is False else [self.eot_token_id]
        return begin + self.run_tokenizer.encode([string])[0].tolist()

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding gives it) of each (context, continuation)."""
        pairs = [_spaces_behind(*request.args) for request in requests]
        texts = list(dict.fromkeys(text for context, rest in pairs for text in (context, context + rest)))
        tokens = dict(zip(texts, ([self.eot_token_id, *ids.tolist()] for ids in self.run_tokenizer.encode(texts))))
        asked: list[Asked] = [
            (request.args, *_cut(tokens[context], tokens[context + rest]))
            for request, (context, rest) in zip(requests, pairs)
        ]
        return self._loglikelihood_tokens(asked)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of each text, behind one separator; one longer than the context in windows, each of
        which begins with the last token of the one before."""
        texts = [text for (text,) in (request.args for request in requests)]
        windows: list[Asked] = []
        ends = [0]
        for ids in self.run_tokenizer.encode(texts):
            of_text = get_rolling_token_windows(ids.tolist(), self.eot_token_id, self.context, context_len=1)
            windows += [(None, *make_disjoint_window(window)) for window in of_text]
            ends.append(len(windows))
        found = [nats for nats, _ in self._loglikelihood_tokens(windows)]
        return [sum(found[begin:end]) for begin, end in pairwise(ends)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, to before one of its stop texts."""
        asked = [Continuation.asked(request.args[1], self.context) for request in requests]
        contexts = [
            self.tok_encode("") + ids.tolist() for ids in self.run_tokenizer.encode([r.args[0] for r in requests])
        ]
        for place, how in enumerate(asked):
            room = self.context - how.max_new_tokens
            self.truncated += len(contexts[place]) > room
            contexts[place] = contexts[place][-room:]
        whole: Any = getattr(self.model, "module", self.model)  # an engine's
        return continued(whole, self.run_tokenizer, self.ranks, contexts, asked, self.batch_tokens, self.on_pass)

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests: Sequence[Asked], **_: Any) -> list[tuple[float, bool]]:
        nats = torch.zeros(len(requests), dtype=torch.float64)
        missed = torch.zeros(len(requests), dtype=torch.float64)
        shared, alone = _split(self._rows(requests))
        nothing = Row((self.eot_token_id,) * 2, 1)
        for groups in (shared, alone):  # apart, as one pass of either is another number of collectives
            batches, dummy = self._batches(groups), [Group(int(groups is shared), [nothing])]
            for begin in range(0, len(batches), self.ranks.world_size):
                mine = begin + self.ranks.rank
                request, found = self._pass(batches[mine] if mine < len(batches) else dummy)
                nats.index_add_(0, torch.tensor(request, dtype=torch.long), found[0])
                missed.index_add_(0, torch.tensor(request, dtype=torch.long), 1 - found[1])
                self.on_pass()
        nats, missed = self.ranks.sum(torch.stack((nats, missed)).to(self.ranks.device)).cpu()
        return list(zip(nats.tolist(), (missed == 0).tolist()))

    def _rows(self, requests: Sequence[Asked]) -> list[Row]:
        """Their inputs, each once. A continuation longer than the context is cut into windows as a text is."""
        rows: dict[tuple[int, ...], Row] = {}
        for request, (_, context, continuation) in enumerate(requests):
            whole, before = [*context, *continuation], len(context)
            self.truncated += len(whole) > self.context + 1
            for begin in range(before, len(whole), self.context):
                end = min(begin + self.context, len(whole))
                first = max(0, end - 1 - self.context)
                inputs = tuple(whole[first : end - 1])
                row = rows.setdefault(inputs, Row(inputs, begin - 1 - first))
                row.read = min(row.read, begin - 1 - first)
                row.targets += [Target(request, place - 1 - first, whole[place]) for place in range(begin, end)]
        return list(rows.values())

    def _batches(self, groups: list[Group]) -> list[list[Group]]:
        """Of groups, the longest first: what does not fit into the memory shows at once."""
        batches: list[list[Group]] = []
        longest = room = 0
        for group in sorted(groups, key=lambda group: (-group.longest, group.rows[0].tokens)):
            for begin in range(0, len(group.rows), most := max(1, self.batch_tokens // group.longest)):
                part = Group(group.common, group.rows[begin : begin + most])
                if not batches or longest * len(part.rows) > room:
                    batches.append([])
                    longest = part.longest
                    room = max(self.batch_tokens, longest * len(part.rows))
                batches[-1].append(part)
                room -= longest * len(part.rows)
        return batches

    def _pass(self, batch: list[Group]) -> tuple[list[int], Tensor]:
        """The request of each target of the batch, and `loss.scored` of them (2, targets) float64, on the CPU."""
        device = self.ranks.device
        rows = [(place, group.common, row) for place, group in enumerate(batch) for row in group.rows]
        parts = _padded([row.tokens[common:] for _, common, row in rows], device)
        cache = self._read([group.rows[0].tokens[: group.common] for group in batch], parts.shape[1])
        if cache is not None:
            cache = cache.of_rows(torch.tensor([place for place, _, _ in rows], device=device))
        targets = [
            (target.request, number * parts.shape[1] + target.place - common, target.token)
            for number, (_, common, row) in enumerate(rows)
            for target in row.targets
        ]
        request, places, ids = map(list, zip(*targets)) if targets else ([], [0], [0])
        found = self.model(
            parts, torch.tensor(ids, device=device), cache=cache, places=torch.tensor(places, device=device)
        )
        return request, found.double().cpu()[:, : len(request)]

    def _read(self, prefixes: list[tuple[int, ...]], room: int) -> DecodeCache | None:
        """A cache that holds `prefixes`, with room for so many tokens behind each; None where they are empty."""
        if not prefixes[0]:
            return None
        model: Any = getattr(self.model, "module", self.model)  # an engine's
        padded = _padded(prefixes, self.ranks.device)
        lengths = torch.tensor([len(prefix) for prefix in prefixes], device=self.ranks.device)
        cache = DecodeCache(len(model.model.layers), padded.shape[1] + room)
        model.model(padded, cache, lengths=None if len(set(map(len, prefixes))) == 1 else lengths)
        return cache


def _split(rows: list[Row]) -> tuple[list[Group], list[Group]]:
    """Rows that share what they read before their first target with others, and those that do not."""
    by_start: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        by_start.setdefault(row.tokens[: row.read], []).append(row)
    shared = [Group(len(start), same) for start, same in by_start.items() if start and len(same) > 1]
    alone = [Group(0, [row]) for start, same in by_start.items() for row in same if not start or len(same) == 1]
    return shared, alone


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(rows, tokens of the longest), zeros behind the others."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)


def _spaces_behind(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the end of a context begin the continuation, as words do in the tokenizer's eyes."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _cut(context: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
    """The ids of a context and of its continuation, of those of the context alone and of both together."""
    if len(whole) > len(context) or whole == context:  # equal: a continuation of no text
        return context, whole[len(context) :]
    # The first of the continuation has become one with the context's last: what differs is the continuation's.
    same = next((place for place, (one, other) in enumerate(zip(context, whole)) if one != other), len(whole) - 1)
    return whole[:same], whole[same:]
