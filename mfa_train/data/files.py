"""Documents from files: JSONL, Parquet or plain text, by the file's ending, on disk or wherever fsspec reaches.

A line of a .jsonl file (also .gz, .bz2, .xz) and a row of a .parquet file is a document, its text under `data.text_key`;
any other file is one document. Files are read in the order of their names, one at a time, never whole unless they are one
document. Empty documents are left out.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import fsspec

from mfa_train.errors import ConfigError, DataError

LARGEST_DOCUMENT = 2**26
"""Bytes. A longer text is a mistake more often than a document, and would be held in memory several times."""


class Files:
    """The files of `patterns` (paths or URLs, with * and ** as in a shell). Raises ConfigError where a pattern finds none."""

    def __init__(self, patterns: list[str], text_key: str):
        if not patterns:
            raise ConfigError("data.files=[]: expected paths, patterns or URLs, as data.files='[corpus/**/*.jsonl]'")
        self.text_key = text_key
        found: dict[str, Any] = {}
        for pattern in patterns:
            files = fsspec.open_files(pattern, "rb", compression="infer")
            if not files:
                raise ConfigError(f"data.files={pattern}: no such file; type paths or patterns, as data.files='[corpus/**/*.jsonl]'")
            found |= {file.full_name: file for file in files}
        self.files = [found[name] for name in sorted(found)]

    def version(self) -> str:
        """Tells file lists apart: names and sizes, not contents."""
        told = [[file.full_name, file.fs.size(file.path)] for file in self.files]
        return hashlib.sha256(json.dumps([told, self.text_key]).encode()).hexdigest()[:16]

    def documents(self) -> Iterator[tuple[str, str]]:
        """(place, text) in order. Raises DataError naming file and line for what is no text."""
        for file in self.files:
            name = file.full_name
            try:
                with file as stream:
                    yield from self._read(name, stream)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{name}: cannot be read to its end ({error}); is it cut off?") from error

    def held_out(self, place: str, text: str, fraction: float) -> bool:
        """By the text alone: the same document twice never falls into both splits."""
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < fraction * 2**64

    def _read(self, name: str, stream: BinaryIO) -> Iterator[tuple[str, str]]:
        stem = name.removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
        if stem.endswith(".parquet"):
            yield from self._rows(name, stream)
        elif stem.endswith((".jsonl", ".ndjson")):
            yield from self._lines(name, stream)
        else:
            yield from _document(name, stream.read(LARGEST_DOCUMENT + 1))

    def _lines(self, name: str, stream: BinaryIO) -> Iterator[tuple[str, str]]:
        number = 0
        while line := stream.readline(LARGEST_DOCUMENT + 1):
            number += 1
            place = f"{name}:{number}"
            if len(line) > LARGEST_DOCUMENT:
                raise DataError(f"{place}: a line of more than {LARGEST_DOCUMENT:,} bytes; split the document")
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{place}: not a JSON object in UTF-8 ({error})") from error
            yield from self._text_of(place, record)

    def _rows(self, name: str, stream: BinaryIO) -> Iterator[tuple[str, str]]:
        import pyarrow.parquet

        try:
            table, number = pyarrow.parquet.ParquetFile(stream), 0
            if self.text_key not in table.schema_arrow.names:
                raise DataError(f"{name}: no column {self.text_key!r} among {table.schema_arrow.names}; type data.text_key=…")
            for batch in table.iter_batches(batch_size=1024, columns=[self.text_key]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield from self._text_of(f"{name}:{number}", {self.text_key: text})
        except pyarrow.ArrowException as error:
            raise DataError(f"{name}: not a whole Parquet file ({error})") from error

    def _text_of(self, place: str, record: Any) -> Iterator[tuple[str, str]]:
        if not isinstance(record, dict) or not isinstance(text := record.get(self.text_key), str):
            keys = f"keys {sorted(record)}" if isinstance(record, dict) else "no object"
            raise DataError(f"{place}: no text under {self.text_key!r} ({keys}); type data.text_key=…")
        yield from _checked(place, text)


def _document(name: str, content: bytes) -> Iterator[tuple[str, str]]:
    if len(content) > LARGEST_DOCUMENT:
        raise DataError(f"{name}: a document of more than {LARGEST_DOCUMENT:,} bytes; split it, or name it .jsonl")
    try:
        yield from _checked(name, content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 (byte {error.start}); convert it, or leave it out of data.files") from error


def _checked(place: str, text: str) -> Iterator[tuple[str, str]]:
    if "\0" in text:
        raise DataError(f"{place}: holds a NUL byte; is it text?")
    if text:
        yield place, text
