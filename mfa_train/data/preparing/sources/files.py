"""Documents from files: JSONL, Parquet or plain text, by the file's ending, on disk or wherever fsspec reaches.

A line of a .jsonl file (also .gz, .bz2, .xz, .zst) and a row of a .parquet file is a document, its text under
`data.text_key`; any other file is one document. Files are read in the order of their names, one at a time, never whole
unless they are one document. Empty documents are left out.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from mfa_train.data import reach
from mfa_train.data.preparing.sources.compressed import Damaged, opened
from mfa_train.data.preparing.sources.document import Document, checked, falls_below
from mfa_train.errors import ConfigError, DataError

LARGEST_DOCUMENT = 2**26
"""Bytes. A longer text is a mistake more often than a document, and would be held in memory several times."""


class Files:
    """The files of `patterns` (paths or URLs, with * and **). Raises ConfigError where a pattern finds none."""

    def __init__(self, patterns: list[str], text_key: str):
        if not patterns:
            raise ConfigError("data.files=[]: expected paths, patterns or URLs, as data.files='[corpus/**/*.jsonl]'")
        self.text_key = text_key
        self.files = reach.found("data.files", patterns)
        self.sizes = [reach.size(file) for file in self.files]

    def version(self) -> str:
        """Tells file lists apart: names and sizes, not contents."""
        told = [[reach.name(file), size] for file, size in zip(self.files, self.sizes)]
        return hashlib.sha256(json.dumps([told, self.text_key]).encode()).hexdigest()[:16]

    def size(self) -> int | None:
        return None if None in self.sizes else sum(self.sizes)

    def documents(self) -> Iterator[Document]:
        """In order. Raises DataError naming file and line for what is no text."""
        before = 0
        for file, size in zip(self.files, self.sizes):
            name = reach.name(file)
            try:
                with reach.reaching(name, DataError), file as raw:
                    yield from self._read(name, raw, before)
            except Damaged as error:
                raise DataError(f"{name}: damaged, or cut off ({error})") from error
            before += size or 0

    def held_out(self, document: Document, fraction: float) -> bool:
        """By the text alone: the same document twice never falls into both splits."""
        return falls_below(document.utf8, fraction)

    def _read(self, name: str, raw: BinaryIO, before: int) -> Iterator[Document]:
        stem, stream = opened(name, raw)
        if stem.endswith(".parquet"):
            texts = self._rows(name, stream)
        elif stem.endswith((".jsonl", ".ndjson")):
            texts = self._lines(name, stream)
        else:
            texts = _whole(name, stream.read(LARGEST_DOCUMENT + 1))
        for place, text in texts:
            yield from checked(place, text, before + raw.tell())

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
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: not a JSON object in UTF-8 ({error})") from error
            yield place, self._text_of(place, record)

    def _rows(self, name: str, stream: BinaryIO) -> Iterator[tuple[str, str]]:
        import pyarrow.parquet

        try:
            table, number = pyarrow.parquet.ParquetFile(stream), 0
            if self.text_key not in table.schema_arrow.names:
                raise DataError(f"{name}: no column {self.text_key!r} among {table.schema_arrow.names}; type "
                                "data.text_key=…")
            for batch in table.iter_batches(batch_size=1024, columns=[self.text_key]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield f"{name}:{number}", self._text_of(f"{name}:{number}", {self.text_key: text})
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"{name}: not a whole Parquet file of text ({error})") from error

    def _text_of(self, place: str, record: Any) -> str:
        if not isinstance(record, dict) or not isinstance(text := record.get(self.text_key), str):
            keys = f"keys {sorted(record)}" if isinstance(record, dict) else "no object"
            raise DataError(f"{place}: no text under {self.text_key!r} ({keys}); type data.text_key=…")
        return text


def _whole(name: str, content: bytes) -> Iterator[tuple[str, str]]:
    if len(content) > LARGEST_DOCUMENT:
        raise DataError(f"{name}: a document of more than {LARGEST_DOCUMENT:,} bytes; split it, or name it .jsonl")
    try:
        yield name, content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 (byte {error.start}); convert it, or leave it out of data.files") from error
