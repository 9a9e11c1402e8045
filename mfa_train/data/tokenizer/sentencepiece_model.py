"""sentencepiece models. One trained here loses nothing: every text comes back as it was, byte for byte.

Whitespace is kept as it is, newlines and tabs are pieces of their own, and a character outside the vocabulary becomes
its UTF-8 bytes: nothing is ever `<unk>`. What it gives up: no piece reaches across a line's end. A model made elsewhere
does what it was made to do: many put a space in front of a text, or normalise characters.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece

from mfa_train.data.tokenizer.base import AT_ONCE_CHANGED, Tokenizer
from mfa_train.data.tokenizer.separator import Choice, Tokens, chosen
from mfa_train.errors import DataError

SPACE = "▁"
"""sentencepiece's own sign for a space. A text's own ▁ is spelt in bytes, or it would come back as a space."""
CHANGED = "a  ﬁ\t Å "
"""Comes back as it is from a model that puts nothing in front, normalises nothing and keeps whitespace."""


class SentencePieceTokenizer(Tokenizer):
    """The sentencepiece model at `path`. Raises DataError for a file that is none."""

    def __init__(self, path: Path, choose: Choice = chosen(None)):
        content = path.read_bytes()
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(content)
            self.vocab_size = self.processor.vocab_size()
            _ = self.pieces  # read now: a damaged file may show first here
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{path}: not a sentencepiece model, nor a tokenizer.json") from error
        own = self.processor.eos_id()
        special = {
            self.processor.id_to_piece(token): token
            for token in range(self.vocab_size)
            if self.processor.is_control(token)
        }
        super().__init__(
            path, content, choose(Tokens(path, special, self._id_of, lambda piece: False, own if own >= 0 else None))
        )
        spelt = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        is_exact = self.text_bytes(self._encode_alone(CHANGED)) == CHANGED.encode()
        if not is_exact:
            self.at_once = AT_ONCE_CHANGED
        self.spelt = np.array(spelt, np.int32) if is_exact and all(map(self.processor.is_byte, spelt)) else None
        """▁ in bytes, where the model has them and changes nothing else."""

    @cached_property
    def known(self) -> np.ndarray:
        return np.array([not self.processor.is_unused(token) for token in range(self.vocab_size)])

    def name_of(self, token: int) -> str:
        return self.processor.id_to_piece(token)

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        encoded = self.processor.encode(texts, num_threads=-1, return_type="numpy")
        if self.spelt is None:
            return encoded
        return [self._encode_spelt(text) if SPACE in text else ids for text, ids in zip(texts, encoded)]

    def _encode_alone(self, text: str) -> np.ndarray:
        return self.processor.encode(text, return_type="numpy")

    def _encode_spelt(self, text: str) -> np.ndarray:
        first, *others = text.split(SPACE)
        return np.concatenate(
            [self._encode_alone(first), *(ids for part in others for ids in (self.spelt, self._encode_alone(part)))]
        )

    def _pieces(self) -> list[bytes]:
        pieces = []
        for token in range(self.vocab_size):
            piece = self.processor.id_to_piece(token)
            if self.processor.is_control(token) or self.processor.is_unknown(token):
                pieces.append(b"")
            elif self.processor.is_byte(token):
                pieces.append(bytes([int(piece[3:5], 16)]))
            else:
                pieces.append(piece.replace(SPACE, " ").encode())
        return pieces

    def _id_of(self, piece: str) -> int | None:
        token = self.processor.piece_to_id(piece)
        return None if self.processor.is_unknown(token) else token
