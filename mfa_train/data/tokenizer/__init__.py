"""Tokenizers with one contract (base.py): sentencepiece models, and Hugging Face's tokenizer.json."""

from pathlib import Path

from mfa_train.data.tokenizer.base import Tokenizer
from mfa_train.data.tokenizer.huggingface import HuggingFaceTokenizer
from mfa_train.data.tokenizer.sentencepiece_model import SentencePieceTokenizer
from mfa_train.data.tokenizer.separator import Choice, Separator, as_before_records, chosen, recorded
from mfa_train.data.tokenizer.training import MIN_VOCAB_SIZE, train_sentencepiece
from mfa_train.errors import DataError

FILES = {"tokenizer.model": SentencePieceTokenizer, "tokenizer.json": HuggingFaceTokenizer}
MOST_BYTES = 2**27
"""Of a tokenizer's file."""

__all__ = [
    "FILES",
    "MIN_VOCAB_SIZE",
    "Tokenizer",
    "file_name",
    "open_recorded",
    "open_tokenizer",
    "open_vocabulary",
    "train_sentencepiece",
]


def file_name(content: bytes) -> str:
    """What a tokenizer's file is called beside a corpus or weights, by what is in it."""
    return "tokenizer.json" if content.lstrip()[:1] == b"{" else "tokenizer.model"


def open_tokenizer(path: Path | str, eos_token: str | None = None) -> Tokenizer:
    """The tokenizer in the file `path`, or in the folder `path` under its usual name.

    Raises DataError for a file that is none, ConfigError where `eos_token`, or any usual one, isn't among its special
    tokens.
    """
    return _opened(Path(path), chosen(eos_token))


def open_recorded(path: Path | str, record: dict | None, eos_token: str | None) -> Tokenizer:
    """The same with the separator that was chosen when its corpus was prepared: `record` of a manifest or of final
    weights. Those made before there were records have none (None): then by the rule of then, with the eos_token that
    they had."""
    return _opened(Path(path), as_before_records(eos_token) if record is None else recorded(record))


def open_vocabulary(path: Path | str) -> Tokenizer:
    """The same for what its ids mean alone: no token is chosen as the separator. Raises UserError."""
    return _opened(Path(path), lambda tokens: Separator("", -1, in_texts=True))


def _opened(path: Path, choose: Choice) -> Tokenizer:
    if path.is_dir():
        beside = [path / name for name in FILES if (path / name).is_file()]
        if not beside:
            raise DataError(f"{path}: no tokenizer here; expected {' or '.join(FILES)}")
        path = beside[0]
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise DataError(f"{path}: {size:,} bytes, and no tokenizer has more than {MOST_BYTES:,}")
        return FILES[file_name(path.read_bytes())](path, choose)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
