"""Documents from files, on disk or wherever fsspec reaches: JSON lines, Parquet or plain text, told by what they hold
(form.py), each also compressed (compressed.py; not Parquet).

A line or a row is a document, its text under `data.text_key`; a text file is one document. Files are read in the order
of their names, one at a time, never whole unless they are one document. Empty documents and those without text (null)
are left out, and counted.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

from mfa_train.data import reach
from mfa_train.data.matching import found
from mfa_train.data.preparing.sources.compressed import ENDINGS, MAGIC_BYTES, Damaged, form_of, unpacked
from mfa_train.data.preparing.sources.document import LARGEST_DOCUMENT, Document, checked, falls_below
from mfa_train.data.preparing.sources.form import BLANK, BOM, HEAD, JSON_LINES, Refused, ending_of, form
from mfa_train.data.preparing.sources.parquet import rows
from mfa_train.data.preparing.sources.tally import Tally
from mfa_train.errors import ConfigError, DataError

LONG_LINE, MOST_PARTS = 2**22, 2**21
NAMES = {"lines": "JSON lines", "parquet": "Parquet", "text": "text"}


class Files:
    """The files of `patterns` (paths or URLs, with * and **). Raises ConfigError where a pattern finds none."""

    def __init__(self, patterns: list[str], text_key: str):
        if not patterns:
            raise ConfigError("data.files=[]: expected paths, patterns or URLs, as data.files='[corpus/**/*.jsonl]'")
        self.text_key = text_key
        self.files, self.passed_over = found("data.files", patterns)
        self.sizes = [reach.size(file) for file in self.files]

    def version(self) -> str:
        """Tells file lists apart: names and sizes, not contents."""
        told = [[reach.name(file), size] for file, size in zip(self.files, self.sizes)]
        return hashlib.sha256(json.dumps([told, self.text_key]).encode()).hexdigest()[:16]

    def size(self) -> int | None:
        known = [size for size in self.sizes if size is not None]
        return sum(known) if len(known) == len(self.sizes) else None

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        """In order. Raises DataError naming file and line for what is no text."""
        tally = tally or Tally()
        tally.passed_over = self.passed_over
        before = 0
        for file, size in zip(self.files, self.sizes):
            name = reach.name(file)
            with reach.reaching(name, DataError):
                opened = file.open()
            try:
                raw, found_before = reach.Raw(opened, name), tally.documents
                for place, text in self._read(name, raw, tally):
                    yield from checked(place, text, before + raw.taken, tally)
                if tally.documents == found_before:
                    tally.left_out["files without a document"] += 1
            except Damaged as error:
                raise DataError(f"{name}: damaged, or cut off {error}") from error
            except Refused as error:
                raise DataError(f"{name}: {error}; or leave it out of data.files") from error
            finally:
                opened.close()
            before += size or 0

    def held_out(self, document: Document, fraction: float) -> bool:
        """By the text alone: the same document twice never falls into both splits."""
        return falls_below(document.utf8, fraction)

    def _read(self, name: str, raw: reach.Raw, tally: Tally) -> Iterator[tuple[str, str | None]]:
        ending, packed_ending = ending_of(name)
        source: io.BufferedReader = io.BufferedReader(raw, HEAD)
        packed = form_of(head := source.peek(MAGIC_BYTES)) or ENDINGS.get(packed_ending)
        stream: io.BufferedReader = unpacked(source, packed) if packed else source
        head = stream.read(HEAD)
        if head.removeprefix(BOM).lstrip(BLANK)[:1] == b"{" and b"\n" not in head.lstrip(BLANK):
            head += stream.readline(LARGEST_DOCUMENT)
        kind = form(ending, head, self.text_key, packed is not None)
        by_name = "parquet" if ending == ".parquet" else "lines" if ending in JSON_LINES else "text"
        tally.files[NAMES[kind] if packed is None else f"{NAMES[kind]} in {packed}"] += 1
        if kind != by_name or packed != ENDINGS.get(packed_ending):
            tally.is_unlike(f"{name} is {NAMES[kind]}{f' in {packed}' if packed else ''}")
        if kind == "parquet":
            source.detach()  # which would close it
            return rows(name, raw, self.text_key)
        stream = io.BufferedReader(_Behind(head, stream), HEAD)
        return self._lines(name, stream) if kind == "lines" else _whole(name, stream.read(LARGEST_DOCUMENT + 1))

    def _lines(self, name: str, stream: io.BufferedReader) -> Iterator[tuple[str, str | None]]:
        number = 0
        while line := stream.readline(LARGEST_DOCUMENT + 1):
            number += 1
            place = f"{name}:{number}"
            if len(line) > LARGEST_DOCUMENT:
                raise DataError(f"{place}: a line of more than {LARGEST_DOCUMENT:,} bytes; split the document")
            if not line.strip():
                continue
            if len(line) > LONG_LINE and (parts := sum(map(line.count, (b"{", b"[", b'":')))) > MOST_PARTS:
                raise DataError(
                    f"{place}: a line of {len(line):,} bytes with {parts:,} objects, lists and keys, which take a "
                    "hundred times "
                    "their size in memory; keep the text alone"
                )
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                lines = "; JSON lines are one object a line, as jq -c makes them" if number == 1 else ""
                raise DataError(f"{place}: not a JSON object in UTF-8 ({error}){lines}") from error
            yield place, _text_of(place, record, self.text_key)


class _Behind(io.RawIOBase):
    """`head`, then the rest of `stream`."""

    def __init__(self, head: bytes, stream: io.BufferedReader):
        self.head, self.stream = memoryview(head), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.head:
            return self.stream.readinto1(buffer)
        count = min(len(buffer), len(self.head))
        buffer[:count], self.head = self.head[:count], self.head[count:]
        return count


def _text_of(place: str, record: Any, text_key: str) -> str | None:
    """None where the record says itself that it has none."""
    if not isinstance(record, dict):
        raise DataError(
            f"{place}: no text under {text_key!r} (no object); JSON lines are one object a line, as jq -c '.[]' makes "
            "them of a list"
        )
    if text_key not in record or not isinstance(text := record[text_key], str | None):
        what = f"keys {sorted(record)[:20]}" if text_key not in record else f"but {type(record[text_key]).__name__}"
        raise DataError(f"{place}: no text under {text_key!r} ({what}); type data.text_key=…")
    return text


def _whole(name: str, content: bytes) -> Iterator[tuple[str, str]]:
    if len(content) > LARGEST_DOCUMENT:
        raise DataError(f"{name}: a document of more than {LARGEST_DOCUMENT:,} bytes; split it, or name it .jsonl")
    try:
        yield name, content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 (byte {error.start}); convert it, or leave it out of data.files") from error
