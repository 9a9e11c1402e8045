"""What the rest of the code relies on of a tokenizer, whoever made it.

A token stands for bytes of text: the text of tokens is the bytes of each, end to end, and bits per byte count them. A
text longer than LONGEST is encoded in parts, cut between two words: memory stays bounded, and all cores work on it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mfa_train.errors import ConfigError

LONGEST = 2**17
"""Characters that are encoded in one piece. A tokenizer needs some hundred bytes of memory for each."""
EOS_NAMES = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eos|>", "<|end▁of▁sentence|>",
             "<｜end▁of▁sentence｜>", "<|eot_id|>", "<|im_end|>", "[EOS]")


class Tokenizer:
    """The tokenizer in the file `path`. Subclasses give `vocab_size`, `_encode` and `_pieces`."""

    vocab_size: int

    def __init__(self, path: Path, eos_token: str | None, token_id: Callable[[str], int | None],
                 own_eos: int | None = None):
        self.path, self.content = path, path.read_bytes()
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self.eos_id = own_eos if eos_token is None and own_eos is not None else _eos_id(path, eos_token, token_id)
        """Ends every document, and parts it from the next."""

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, (tokens,) int32, without bos and eos, on all cores."""
        if all(len(text) <= LONGEST for text in texts):
            return self._encode(texts)
        cut = [list(_parts(text)) for text in texts]
        encoded = iter(self._encode([part for parts in cut for part in parts]))
        return [np.concatenate([next(encoded) for _ in parts]) for parts in cut]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the tokens; a character that is cut off at either end shows as �."""
        return self.text_bytes(np.asarray(ids)).decode("utf-8", errors="replace")

    def text_bytes(self, ids: np.ndarray) -> bytes:
        """The UTF-8 text that tokens (n,) stand for; it may start or end inside a character."""
        pieces = self.pieces
        return b"".join(pieces[token] for token in ids.tolist())

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """How many bytes of text each token stands for, (vocab_size,); control tokens none."""
        return np.array([len(piece) for piece in self.pieces])

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of text that each token stands for."""
        return self._pieces()

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        raise NotImplementedError

    def _pieces(self) -> list[bytes]:
        raise NotImplementedError


def _eos_id(path: Path, eos_token: str | None, token_id: Callable[[str], int | None]) -> int:
    for name in EOS_NAMES if eos_token is None else (eos_token,):
        if (found := token_id(name)) is not None:
            return found
    missing = "an end-of-text token under none of the usual names" if eos_token is None else "no such token"
    raise ConfigError(f"data.eos_token={'null' if eos_token is None else eos_token}: {path.name} has {missing}; type "
                      "the one that parts documents, as \"data.eos_token='<|im_end|>'\"")


def _parts(text: str) -> Iterator[str]:
    """Cut before a space between two words, where no usual piece reaches across; else after LONGEST characters."""
    start = 0
    while len(text) - start > LONGEST:
        at = end = start + LONGEST
        while (at := text.rfind(" ", start + 1, at)) > 0 and (text[at - 1].isspace() or text[at + 1].isspace()):
            pass
        end = at if at > 0 else end
        yield text[start:end]
        start = end
    yield text[start:]
