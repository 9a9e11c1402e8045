"""A Hugging Face tokenizer.json, byte-level (GPT-2, Llama 3, Qwen) or sentencepiece-like (Llama 2).

The names of special tokens in a text are text: a document that spells <|endoftext|> doesn't end there. Truncation,
padding and dropout that the file may ask for are turned off. What each token stands for is read off the vocabulary,
exact for bytes; where the file's normaliser changes texts, what comes back is the changed text.
"""

import json
import os
import re
from pathlib import Path

import numpy as np

from mfa_train.data.tokenizer.base import Tokenizer
from mfa_train.errors import ConfigError, DataError

SPACE = "▁"


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer.json at `path`. Raises DataError for a file that is none, ConfigError where spaces are lost."""

    def __init__(self, path: Path, eos_token: str | None = None):
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, it warns at every fork of a run
        import tokenizers

        try:
            content = path.read_bytes()
            self.settings = json.loads(content)
            self.tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # `tokenizers` raises bare Exceptions
            raise DataError(f"{path}: not a tokenizer.json that `tokenizers` reads ({error})") from error
        kinds = _kinds(self.settings)
        if not kinds & {"ByteLevel", "Metaspace"}:
            raise ConfigError(f"data.tokenizer={path}: neither byte-level nor sentencepiece-like; spaces would be lost")
        self.is_byte_level = "ByteLevel" in kinds
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True
        if self.settings["model"].get("dropout"):
            self.tokenizer.model.dropout = None
        self.vocab_size = 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())
        super().__init__(path, eos_token, self.tokenizer.token_to_id)

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(encoded.ids, dtype=np.int32)
                for encoded in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _pieces(self) -> list[bytes]:
        pieces = [b""] * self.vocab_size
        falls_back = self.settings["model"].get("byte_fallback", False)
        unknown = self.settings["model"].get("unk_token")
        alphabet = _byte_alphabet()
        for piece, token in self.tokenizer.get_vocab(with_added_tokens=False).items():
            if piece == unknown or self.settings["model"].get("unk_id") == token:
                continue
            if self.is_byte_level:
                pieces[token] = bytes(alphabet[character] for character in piece if character in alphabet)
            elif falls_back and re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
                pieces[token] = bytes([int(piece[3:5], 16)])
            else:
                pieces[token] = piece.replace(SPACE, " ").encode()
        for token, added in self.tokenizer.get_added_tokens_decoder().items():
            pieces[token] = b"" if added.special else added.content.encode()
        return pieces


def _kinds(settings: dict) -> set[str]:
    """ByteLevel, Metaspace: what the file does to text before and after its model."""
    steps = []
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        step = settings.get(name) or {}
        steps += [step, *step.get("normalizers", []), *step.get("pretokenizers", []), *step.get("decoders", [])]
    kinds = {step.get("type", "") for step in steps}
    replacing = [step for step in steps if step.get("type") == "Replace"]
    if any(SPACE in (step.get("content"), *step.get("pattern", {}).values()) for step in replacing):
        kinds.add("Metaspace")  # as Llama 2's file spells it
    return kinds


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte (Radford et al. 2019, `bytes_to_unicode` of its code)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
