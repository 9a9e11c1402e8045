"""A document, encoded once: its text, the same as UTF-8, and where it was found."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from mfa_train.data.preparing.sources.tally import Tally
from mfa_train.errors import DataError

LARGEST_DOCUMENT = 2**26
"""Bytes. A longer text is a mistake more often than a document, and would be held in memory several times."""


class Document(NamedTuple):
    place: str
    """File and line, or whatever finds it again."""
    text: str
    utf8: bytes
    position: int
    """Bytes of the source that were read when this document was; 0 where the source doesn't know."""
    is_end: bool = False
    """The held-out end of a document that was parted (ends.py)."""


def checked(place: str, text: str | None, position: int, tally: Tally) -> Iterator[Document]:
    """The document, counted; none where it is empty or has no text (None). Raises DataError naming the place of what is
    no text."""
    if not text:
        tally.left_out["rows without text (null)" if text is None else "empty documents"] += 1
        return
    if "\0" in text:
        raise DataError(f"{place}: holds a NUL byte; is it text?")
    try:
        utf8 = text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: character {error.start} is half of a surrogate pair, which is no text") from error
    if len(utf8) > LARGEST_DOCUMENT:
        raise DataError(f"{place}: a document of {len(utf8):,} bytes, more than {LARGEST_DOCUMENT:,}; split it")
    tally.documents += 1
    tally.bytes += len(utf8)
    yield Document(place, text, utf8, position)


def falls_below(key: bytes, fraction: float) -> bool:
    """True for that share of all keys: by a hash of the key alone, whatever else is there."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") < fraction * 2**64
