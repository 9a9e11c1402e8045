"""What a file holds: JSON lines, Parquet or text. Told by its first bytes; its name's ending only where they could be
either.

JSON that is not lines, and what is clearly no text, is refused with what to type.
"""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from mfa_train.data.preparing.sources.compressed import ENDINGS, form_of

HEAD = 2**16
"""Bytes that are looked at."""
LINES = 8
JSON_LINES = (".jsonl", ".ndjson", ".jsonlines", ".jl", ".ldjson")
UNTOLD = ("", ".json", ".txt")
"""Endings that pages and arrays come under by mistake."""
BLANK = b" \t\r\n"
BOM = b"\xef\xbb\xbf"
SIGNATURES = (
    (b"%PDF-", "a PDF: extract its text, as with pdftotext"),
    (b"PK\x03\x04", "a zip archive (or made like one, as .docx): unpack it"),
    (b"PK\x05\x06", "a zip archive: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!\x1a", "a rar archive: unpack it"),
    (b"ARROW1\0\0", "an Arrow file: type data=hub data.dataset=arrow"),
    (b"\xff\xff\xff\xff", "an Arrow stream, or no text: type data=hub data.dataset=arrow"),
    (b"\xff\xfe\0\0", "UTF-32: convert it, as with iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32: convert it, as with iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "UTF-16: convert it, as with iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16: convert it, as with iconv -f UTF-16 -t UTF-8"),
    (b"Obj\x01", "Avro: convert it to JSON lines"),
    (b"\x93NUMPY", "a NumPy array: tokens are data=megatron's"),
    (b"MMIDIDX\0", "a Megatron index: type data=megatron, with its .bin"),
    (b"SQLite format 3\0", "an SQLite database: convert it to JSON lines"),
    (b"\x89HDF", "an HDF5 file: convert it to JSON lines"),
    (b"\xd0\xcf\x11\xe0", "an Office document: save it as text"),
    (b"\x1e", "JSON text sequences: type tr -d '\\036' < FILE > FILE.jsonl"),
    (b"{\\rtf", "RTF: save it as text"),
    (b"\x04\x22\x4d\x18", "lz4: unpack it, or compress it as .zst"),
    (b"\x1f\x9d", "compressed by compress: unpack it"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x7fELF", "a program"),
)


class Refused(Exception):
    """What the file holds, and what to type."""


def ending_of(name: str) -> tuple[str, str]:
    """(a name's ending in lower case, the compression's ending behind it), each "" where there is none."""
    path = urlsplit(name).path if "://" in name else name
    file = path.rsplit("/", 1)[-1].lower()
    packed = next((ending for ending in ENDINGS if file.endswith(ending)), "")
    file = file.removesuffix(packed)
    stem, dot, last = file.rpartition(".")
    return (f".{last}" if dot and stem else ""), packed


def form(ending: str, head: bytes, text_key: str, packed: bool) -> str:
    """ "lines", "parquet" or "text", of a file whose (unpacked) content begins with `head`: HEAD bytes, or up to the
    end of the first line where that is longer, or all there is. Raises Refused."""
    if ending == ".parquet" or (head.startswith(b"PAR1") and re.search(rb"[\0-\x08\x0e-\x1f]", head[4:64])):
        if packed:
            raise Refused("Parquet inside a compressed file: unpack it (Parquet is compressed by itself)")
        return "parquet"
    if (inner := form_of(head)) is not None:
        raise Refused(f"compressed twice ({inner} inside): unpack it once" if packed else f"{inner} inside: unpack it")
    if head[257:262] == b"ustar":
        raise Refused("a tar archive: unpack it, and name its files")
    for signature, told in SIGNATURES:
        if head.startswith(signature):
            raise Refused(told)
    if ending in (".csv", ".tsv"):
        raise Refused(
            "a table: type data=hub data.dataset=csv data.text_key=COLUMN, with the same data.files"
            if ending == ".csv"
            else "a table: convert it to JSON lines"
        )
    if ending in JSON_LINES:
        return "lines"
    text = head.removeprefix(BOM).lstrip(BLANK)
    if ending in UNTOLD and re.match(rb"(<\?xml[^>]*>\s*)?(<!doctype html|<html)[\s>]", text, re.IGNORECASE):
        raise Refused("a page of HTML: extract its text (or name it .html, to train on the markup as it is)")
    return _json_form(ending, text, len(head) >= HEAD, text_key)


def _json_form(ending: str, text: bytes, cut: bool, text_key: str) -> str:
    records = _records(text, cut)
    objects = [record for record in records if isinstance(record, dict)]
    if records and isinstance(records[0], dict):
        if ending in ("", ".json"):
            return "lines"
        if 2 * len(objects) > len(records) and (len(objects) > 1 or isinstance(objects[0].get(text_key), str)):
            return "lines"
    elif ending == ".json" and text:
        raise _not_lines(text)
    elif re.match(rb'[\[{]\s*(\{\s*)?"(\\.|[^"\\])*"\s*:', text):
        has_text = re.search(re.escape(json.dumps(text_key)).encode() + rb"\s*:", text[:HEAD])
        if ending == "" or (has_text and (text[:1] == b"[" or _is_record_and_more(text, text_key))):
            raise _not_lines(text)
    return "text"


def _is_record_and_more(text: bytes, text_key: str) -> bool:
    """Whether `text` is objects end to end, or parted by other than line breaks, the first with a text."""
    told = text.decode("utf-8", errors="replace")
    try:
        record, end = json.JSONDecoder().raw_decode(told)
    except (ValueError, RecursionError):
        return False
    return isinstance(record.get(text_key), str) and told[end:].lstrip().startswith("{")


def _records(text: bytes, cut: bool) -> list[Any]:
    """The values of the first LINES whole lines, as JSON; None for a line that is none."""
    if text[:1] not in (b"{", b"["):
        return []
    lines = text.split(b"\n")
    if len(lines) > 1 and cut:
        lines.pop()  # cut off where the look ends
    records = []
    for line in [line for line in lines if line.strip()][:LINES]:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            records.append(None)
    return records


def _not_lines(text: bytes) -> Refused:
    how = "jq -c '.[]'" if text[:1] == b"[" else "jq -c ."
    return Refused(
        f"JSON, but not one object a line: type {how} FILE > FILE.jsonl, or data=hub data.dataset=json with the same "
        "data.files"
    )
