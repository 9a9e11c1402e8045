"""A text that grows token by token: in whole characters, and no further than to where a stop text begins."""

import codecs
from collections.abc import Sequence

import numpy as np

from mfa_train.data.tokenizer import Tokenizer


class GrowingText:
    """The text of the tokens `given`, and of those that are added until it has `ended`.

    It ends with its document, or before the first of the texts `stop` that is complete in what was added, as with
    `stop` of OpenAI's and vLLM's completions.
    """

    def __init__(self, tokenizer: Tokenizer, given: Sequence[int], stop: Sequence[str] = ()):
        self.tokenizer, self.stop = tokenizer, stop
        self.characters = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = self._decoded(given)
        self.start = len(self.text)
        """Where what is added begins."""
        self.tokens = 0
        """That were added."""
        self.ended = False
        self.closed = False
        """Whether `cut_off` was told that no token follows."""

    def add(self, token: int) -> None:
        self.tokens += 1
        self._append(self._decoded([token]))
        if token == self.tokenizer.eos_id:
            self.cut_off()
            self.ended = True

    def cut_off(self) -> None:
        """No token follows: a character that is not whole shows as �, and what began like a stop text as it is."""
        self.closed = True
        if not self.ended:
            self._append(self.characters.decode(b"", final=True))

    def record(self) -> dict:
        """For a program: what was added, in how many tokens, and why it ends, in the words of OpenAI's completions."""
        return {
            "text": self.text[self.start :],
            "tokens": self.tokens,
            "finish_reason": "stop" if self.ended else "length",
        }

    @property
    def settled(self) -> int:
        """How many characters of the text no further token can take back."""
        if self.ended or self.closed or not self.stop:
            return len(self.text)
        begun = range(max(self.start, len(self.text) + 1 - max(map(len, self.stop))), len(self.text))
        open_ends = (at for at in begun if any(stop.startswith(self.text[at:]) for stop in self.stop))
        return next(open_ends, len(self.text))

    def _decoded(self, tokens: Sequence[int]) -> str:
        return self.characters.decode(self.tokenizer.text_bytes(np.asarray(tokens, dtype=np.int64)))

    def _append(self, new: str) -> None:
        old, self.text = len(self.text), self.text + new
        found = []
        for stop in self.stop:
            at = self.text.find(stop, max(self.start, old - len(stop) + 1))
            if at >= 0:
                found.append((at + len(stop), at))
        if found:
            self.text, self.ended = self.text[: min(found)[1]], True
