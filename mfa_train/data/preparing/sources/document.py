"""A document, encoded once: its text, the same as UTF-8, and where it was found."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from mfa_train.errors import DataError


class Document(NamedTuple):
    place: str
    """File and line, or whatever finds it again."""
    text: str
    utf8: bytes
    position: int
    """Bytes of the source that were read when this document was; 0 where the source doesn't know."""


def checked(place: str, text: str, position: int = 0) -> Iterator[Document]:
    """The document, or none where it is empty. Raises DataError naming the place of what is no text."""
    if "\0" in text:
        raise DataError(f"{place}: holds a NUL byte; is it text?")
    try:
        utf8 = text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: character {error.start} is half of a surrogate pair, which is no text") from error
    if utf8:
        yield Document(place, text, utf8, position)


def falls_below(key: bytes, fraction: float) -> bool:
    """True for that share of all keys: by a hash of the key alone, whatever else is there."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") < fraction * 2**64
