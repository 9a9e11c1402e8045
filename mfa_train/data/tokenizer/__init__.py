"""Tokenizers with one contract (base.py): sentencepiece models, and Hugging Face's tokenizer.json."""

from pathlib import Path

from mfa_train.data.tokenizer.base import Tokenizer
from mfa_train.data.tokenizer.huggingface import HuggingFaceTokenizer
from mfa_train.data.tokenizer.sentencepiece_model import MIN_VOCAB_SIZE, SentencePieceTokenizer, train_sentencepiece
from mfa_train.errors import DataError

FILES = {"tokenizer.model": SentencePieceTokenizer, "tokenizer.json": HuggingFaceTokenizer}

__all__ = ["FILES", "MIN_VOCAB_SIZE", "Tokenizer", "file_name", "open_tokenizer", "train_sentencepiece"]


def file_name(content: bytes) -> str:
    """What a tokenizer's file is called beside a corpus or weights, by what is in it."""
    return "tokenizer.json" if content.lstrip()[:1] == b"{" else "tokenizer.model"


def open_tokenizer(path: Path | str, eos_token: str | None = None) -> Tokenizer:
    """The tokenizer in the file `path`, or in the folder `path` under its usual name.

    Raises DataError for a file that is none, ConfigError where `eos_token`, or any usual one, isn't in its vocabulary.
    """
    path = Path(path)
    if path.is_dir():
        beside = [path / name for name in FILES if (path / name).is_file()]
        if not beside:
            raise DataError(f"{path}: no tokenizer here; expected {' or '.join(FILES)}")
        path = beside[0]
    return FILES[file_name(path.read_bytes())](path, eos_token)
