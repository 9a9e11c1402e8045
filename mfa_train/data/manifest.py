"""manifest.json of a prepared corpus, held against what it can be before any of it is used.

Shards have plain names, beside the manifest. Those of data=megatron lie elsewhere: a manifest on this machine's disk
may name paths and URLs; one that came from a URL only URLs of the same host (or bucket), so that whoever writes there
reads no one else's files.
"""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mfa_train.data import fields
from mfa_train.data.reach import NoBucket
from mfa_train.data.shards.cache import ShardCache, is_url
from mfa_train.data.shards.megatron_form import DTYPES
from mfa_train.data.shards.parts import LEAST_BYTES
from mfa_train.data.tokenizer import FILES
from mfa_train.errors import DataError

SPLITS = ("train", "held_out")
FORMAT = 3
LARGEST = 2**28
"""Bytes of a manifest: of a million shards."""
TYPES = {dtype.__name__ for dtype in DTYPES.values()}


def read_manifest(path: Path | str, cache: ShardCache | None = None) -> dict:
    """manifest.json of the corpus at `path`; behind a URL `cache` gets it. Raises DataError where there is none, or it
    isn't one."""
    file = f"{str(path).rstrip('/')}/manifest.json"
    try:
        content = cache.read(file) if cache is not None and is_url(file) else _on_disk(Path(file))
    except (DataError, OSError) as error:
        missing = isinstance(error.__cause__, FileNotFoundError) and not isinstance(error.__cause__, NoBucket)
        if is_url(file) and not missing:
            raise
        raise DataError(f"{path}: no prepared corpus here (manifest.json is missing); type mfa-train prepare") from None
    try:
        manifest = fields.mapping("it", json.loads(content))
        form = fields.of("", manifest, "format")
        if type(form) is int and form != FORMAT:
            raise DataError(f"{file}: format {form}, expected {FORMAT}; remove {path} and prepare it again")
        fields.count("format", form, FORMAT, FORMAT)
        _require(manifest, str(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not a manifest, or damaged ({error}); remove {path} and prepare it again") from error
    return manifest


def _on_disk(file: Path) -> bytes:
    if not file.is_file():
        raise FileNotFoundError(file)
    with file.open("rb") as opened:
        content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DataError(f"{file}: more than {LARGEST:,} bytes, which no manifest has")
    return content


def _require(manifest: dict, path: str) -> None:
    """Raises ValueError, naming the field."""
    fields.sha256("tokenizer_sha256", fields.of("", manifest, "tokenizer_sha256"))
    if fields.of("", manifest, "tokenizer_file") not in list(FILES):
        raise ValueError(
            f"tokenizer_file is {fields.shown(manifest['tokenizer_file'])}, expected one of {', '.join(FILES)}"
        )
    if (eos := fields.of("", manifest, "eos_token")) is not None:
        fields.text("eos_token", eos).encode()  # which raises ValueError for half of a surrogate pair
    if "vocab_size" in manifest:
        fields.count("vocab_size", manifest["vocab_size"], 1)
    if not isinstance(manifest.get("separator", True), bool):
        raise ValueError(f"separator is {fields.shown(manifest['separator'])}, expected true or false")
    splits = fields.mapping("splits", fields.of("", manifest, "splits"))
    for split in SPLITS:
        entry = fields.mapping(split, fields.of("splits", splits, split))
        shards = fields.listing(f"{split}: shards", fields.of(split, entry, "shards"))
        for shard in shards:
            require_shard(split, fields.mapping(f"{split}: a shard", shard), path, manifest.get("source") == "megatron")
        for key in ("documents", "tokens", "bytes"):
            if key in entry:
                _require_sum(f"{split}: {key}", entry[key], [shard.get(key) for shard in shards])


def require_shard(split: str, entry: dict, path: str, elsewhere: bool) -> None:
    """Of a split of the corpus at `path`; with `elsewhere` it may lie outside of it. Raises ValueError, naming the
    field."""
    name = fields.text(f"{split}: name", fields.of(split, entry, "name"))
    field = f"{split}: {fields.shown(name)}"
    _require_place(field, name, path, elsewhere)
    for key in ("tokens", "first_token", "documents", "bytes"):
        if key == "tokens" or entry.get(key) is not None:
            fields.count(f"{field}: {key}", fields.of(field, entry, key))
    if fields.of(field, entry, "dtype") not in sorted(TYPES):
        raise ValueError(
            f"{field}: dtype is {fields.shown(entry['dtype'])}, expected one of {', '.join(sorted(TYPES))}"
        )
    sums = fields.mapping(f"{field}: sha256", fields.of(field, entry, "sha256"))
    fields.of(f"{field}: sha256", sums, "bin")
    for suffix, value in sums.items():
        if suffix not in ("bin", "idx"):
            raise ValueError(f"{field}: sha256 of {fields.shown(suffix)}, expected bin and idx")
        if value is not None:
            fields.sha256(f"{field}: sha256 of {suffix}", value)
    if "parts" in entry:
        _require_parts(f"{field}: parts", entry)


def _require_parts(field: str, entry: dict) -> None:
    parts = fields.mapping(field, entry["parts"])
    if unknown := sorted(set(parts) - {"bytes", "sha256"}):
        raise ValueError(f"{field} has {fields.shown(unknown[0])}, expected bytes and sha256")
    if fields.count(f"{field}: bytes", fields.of(field, parts, "bytes"), LEAST_BYTES) % LEAST_BYTES:
        raise ValueError(f"{field}: bytes is {parts['bytes']}, expected a multiple of {LEAST_BYTES}")
    fields.sha256(f"{field}: sha256", fields.of(field, parts, "sha256"))
    if entry.get("first_token"):
        raise ValueError(f"{field}: of a shard that begins at token {entry['first_token']}, expected none")


def _require_place(field: str, name: str, path: str, elsewhere: bool) -> None:
    if re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        return
    if not elsewhere:
        raise ValueError(f"{field}: expected a plain name, of a file beside the manifest")
    if is_url(path):
        here, there = urlsplit(path), urlsplit(name)
        if (here.scheme, here.netloc) != (there.scheme, there.netloc) or ".." in there.path.split("/"):
            raise ValueError(
                f"{field}: lies elsewhere than this manifest, which came from {here.scheme}://{here.netloc}; prepare "
                "the "
                "corpus (data=megatron) where it is read"
            )
    elif (not is_url(name) and not os.path.isabs(name)) or "\0" in name:
        raise ValueError(f"{field}: expected a plain name, an absolute path or a URL")


def _require_sum(field: str, value: Any, parts: list) -> None:
    if value is None:
        if parts and None not in parts:
            raise ValueError(f"{field} is null, but its shards tell of {sum(parts):,}")
        return
    fields.count(field, value)
    if None in parts or sum(parts) != value:
        raise ValueError(f"{field} is {value:,}, but its shards' do not add up to that")
