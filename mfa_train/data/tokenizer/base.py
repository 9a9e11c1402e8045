"""What the rest of the code relies on of a tokenizer, whoever made it.

A token stands for bytes of text: the text of tokens is the bytes of each, end to end, and bits per byte count them. A
text longer than LONGEST is encoded in parts, cut between two words, and no more than AT_ONCE characters of parts at a
time: memory stays bounded, of one long text and of many, and all cores work on it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mfa_train.data.tokenizer.separator import Separator
from mfa_train.errors import DataError

LONGEST = 2**17
"""Characters that are encoded in one piece. A tokenizer needs some hundred bytes of memory for each."""
AT_ONCE = 2**22
"""Characters that are encoded at once, on all cores: enough for those, little enough for memory."""
AT_ONCE_CHANGED = AT_ONCE // 8
"""The same where the tokenizer changes texts first, and may make them many times as long."""
MOST_TOKENS = 2**26
"""Of one text, which a document of the most bytes has only at one byte a token."""


class Tokenizer:
    """The tokenizer in the file `path`. Subclasses give `vocab_size`, `name_of`, `_encode` and `_pieces`."""

    vocab_size: int
    at_once = AT_ONCE

    def __init__(self, path: Path, content: bytes, separator: Separator):
        self.path, self.content = path, content
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self.separator = separator
        self.eos_id = separator.id
        """Ends every document, and parts it from the next."""

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, (tokens,) int32, without bos and eos, on all cores. Raises DataError for a text that
        the tokenizer fails at."""
        encoded: list[list[np.ndarray]] = [[] for _ in texts]
        tokens = [0] * len(texts)
        for group in _groups(
            ((number, part) for number, text in enumerate(texts) for part in cut(text, LONGEST)), self.at_once
        ):
            for (number, _), ids in zip(group, self._encode([part for _, part in group])):
                encoded[number].append(ids)
                tokens[number] += len(ids)
                if tokens[number] > MOST_TOKENS:
                    raise DataError(
                        f"{self.path}: makes more than {MOST_TOKENS:,} tokens of one text of {len(texts[number]):,} "
                        "characters; split the document, or take a tokenizer that changes it less"
                    )
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the tokens; a character that is cut off at either end shows as �."""
        return self.text_bytes(np.asarray(ids)).decode("utf-8", errors="replace")

    def text_bytes(self, ids: np.ndarray) -> bytes:
        """The UTF-8 text that tokens (n,) stand for; it may start or end inside a character. Ids that the tokenizer
        doesn't have stand for none."""
        pieces = self.pieces
        ids = ids[(ids >= 0) & (ids < len(pieces))]
        return b"".join(
            b"".join([pieces[token] for token in part.tolist()])  # a list takes ten times an array's memory
            for part in (ids[start : start + LONGEST] for start in range(0, len(ids), LONGEST))
        )

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """How many bytes of text each token stands for, (vocab_size,); control tokens none."""
        return np.array([len(piece) for piece in self.pieces])

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of text that each token stands for."""
        return self._pieces()

    @cached_property
    def known(self) -> np.ndarray:
        """Which ids are tokens, (vocab_size,) bool: a vocabulary may have holes."""
        return np.ones(self.vocab_size, dtype=bool)

    def name_of(self, token: int) -> str:
        """What the file calls it."""
        raise NotImplementedError

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        raise NotImplementedError

    def _pieces(self) -> list[bytes]:
        raise NotImplementedError


def cut(text: str, longest: int) -> Iterator[str]:
    """Parts of at most `longest` characters: cut before a space between two words, where no usual piece reaches across;
    else after `longest`."""
    start = 0
    while len(text) - start > longest:
        at = end = start + longest
        while (at := text.rfind(" ", start + 1, at)) > 0 and (text[at - 1].isspace() or text[at + 1].isspace()):
            pass
        end = at if at > 0 else end
        yield text[start:end]
        start = end
    yield text[start:]


def _groups(parts: Iterable[tuple[int, str]], at_once: int) -> Iterator[list[tuple[int, str]]]:
    """`parts`, as many at a time as have that many characters."""
    group: list[tuple[int, str]] = []
    size = 0
    for number, part in parts:
        if group and size + len(part) > at_once:
            yield group
            group, size = [], 0
        group.append((number, part))
        size += len(part)
    if group:
        yield group
