"""sentencepiece models. One trained here loses nothing: every text comes back as it was, byte for byte.

Whitespace is kept as it is, newlines and tabs are pieces of their own, and a character outside the vocabulary becomes
its UTF-8 bytes: nothing is ever `<unk>`. What it gives up: no piece reaches across a line's end. A model made elsewhere
does what it was made to do: many put a space in front of a text, or normalise characters.
"""

import io
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece

from mfa_train.data.tokenizer.base import Tokenizer
from mfa_train.errors import ConfigError, DataError

SPACE = "▁"
"""sentencepiece's own sign for a space. A text's own ▁ is spelt in bytes, or it would come back as a space."""
MIN_VOCAB_SIZE = 512
"""Control tokens, 256 bytes and room for the characters."""


def train_sentencepiece(texts: Iterable[str], vocab_size: int) -> bytes:
    """A sentencepiece model of exactly `vocab_size` pieces: unk 0, bos 1, eos 2, bytes, then text.

    The same texts give the same bytes. Raises ConfigError for a vocabulary the texts can't fill.
    """
    model = io.BytesIO()
    lines = (line for text in texts for line in text.split("\n") if line)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=model, model_type="bpe", vocab_size=vocab_size, byte_fallback=True,
            normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
            split_digits=True, allow_whitespace_only_pieces=True, user_defined_symbols=["\n", "\t"],
            character_coverage=0.9999, max_sentence_length=2**20, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        most = re.search(r"value <= (\d+)", str(error))
        raise ConfigError(f"data.vocab_size={vocab_size}: sentencepiece cannot make so many pieces of this corpus; type "
                          f"data.vocab_size={most[1] if most else 4096}") from error
    return model.getvalue()


class SentencePieceTokenizer(Tokenizer):
    """The sentencepiece model at `path`. Raises DataError for a file that is none."""

    def __init__(self, path: Path, eos_token: str | None = None):
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(path.read_bytes())
        except RuntimeError as error:
            raise DataError(f"{path}: not a sentencepiece model, nor a tokenizer.json") from error
        self.vocab_size = self.processor.vocab_size()
        own_eos = self.processor.eos_id()
        super().__init__(path, eos_token, self._id_of, own_eos if own_eos >= 0 else None)
        spelt = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        alone = self.text_bytes(self._encode_alone("a"))
        self.spelt = np.array(spelt, np.int32) if alone == b"a" and all(map(self.processor.is_byte, spelt)) else None
        """▁ in bytes, where the model has them and puts nothing in front of a text."""

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        encoded = self.processor.encode(texts, num_threads=-1, return_type="numpy")
        if self.spelt is None:
            return encoded
        return [self._encode_spelt(text) if SPACE in text else ids for text, ids in zip(texts, encoded)]

    def _encode_alone(self, text: str) -> np.ndarray:
        return self.processor.encode(text, return_type="numpy")

    def _encode_spelt(self, text: str) -> np.ndarray:
        first, *others = text.split(SPACE)
        return np.concatenate([self._encode_alone(first),
                               *(ids for part in others for ids in (self.spelt, self._encode_alone(part)))])

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
