"""A sentencepiece BPE tokenizer that loses nothing: every text comes back as it was, byte for byte.

Whitespace is kept as it is, newlines and tabs are pieces of their own, and a character outside the vocabulary becomes
its UTF-8 bytes: nothing is ever `<unk>`. What it gives up: no piece reaches across a line's end.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece

from mfa_train.errors import ConfigError

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


class Tokenizer:
    """The sentencepiece model at `path`."""

    def __init__(self, path: Path):
        self.path = Path(path)
        model = self.path.read_bytes()
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self.processor.vocab_size()
        self.bos_id, self.eos_id = self.processor.bos_id(), self.processor.eos_id()

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without bos and eos, on all cores."""
        encoded = self.processor.encode(texts, num_threads=-1)
        return [self._encode_spelt(text) if SPACE in text else ids for text, ids in zip(texts, encoded)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the tokens; a character that is cut off at either end shows as �."""
        return self.text_bytes(np.asarray(ids)).decode("utf-8", errors="replace")

    def text_bytes(self, ids: np.ndarray) -> bytes:
        """The UTF-8 text that tokens (n,) stand for; it may start or end inside a character."""
        pieces = self._pieces
        return b"".join(pieces[token] for token in ids.tolist())

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """How many bytes of text each token stands for, (vocab_size,); control tokens none."""
        return np.array([len(piece) for piece in self._pieces])

    @cached_property
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

    def _encode_spelt(self, text: str) -> list[int]:
        spelt = [self.processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        ids: list[int] = []
        for index, part in enumerate(self.processor.encode(text.split(SPACE))):
            ids += (spelt if index else []) + part
        return ids
