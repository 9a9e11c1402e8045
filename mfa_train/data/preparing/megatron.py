"""Token shards that Megatron-LM, GPT-NeoX or their like made, used where they lie: nothing is tokenised or copied.

data.path gets the tokenizer and a manifest whose shards point to the files. Of each shard the last
data.held_out_fraction of the documents are held out, so that every shard's text is evaluated; or, whole,
data.held_out_files. What is checked: every index, the size of its .bin, and WINDOWS samples of tokens, which must be in
the vocabulary. Whether documents end in the end-of-text token is recorded as "separator".
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fsspec.core import OpenFile

from mfa_train.config import DataConfig
from mfa_train.data import reach
from mfa_train.data.matching import found
from mfa_train.data.preparing.finish import finish, settings_of, write_bytes
from mfa_train.data.shards.megatron_form import HEADER, MAGIC
from mfa_train.data.shards.megatron_index import MegatronIndex, index_bytes
from mfa_train.data.tokenizer import Tokenizer, file_name, open_tokenizer
from mfa_train.errors import ConfigError, DataError

WINDOWS = 8
WINDOW = 2**16
"""Tokens of a sample."""
LARGEST_ODD = 2**20
"""Bytes of a file that is no index, which is not read to find that out."""


class Registration:
    """The preparation of data.files as they are. `tokenizer`: the content of the file that data.tokenizer names.

    Raises ConfigError where there are no such files, or no tokenizer is named.
    """

    def __init__(self, path: Path, data: DataConfig, tokenizer: bytes | None, say: Callable[[str], None]):
        if tokenizer is None:
            raise ConfigError(
                "data.tokenizer=null: expected the one these tokens were made with, as "
                "data.tokenizer=/models/gpt2/tokenizer.json"
            )
        if not data.files:
            raise ConfigError("data.files=[]: expected the shards, as data.files='[/corpora/x_text_document.bin]'")
        self.path, self.data, self.given, self.say = path, data, tokenizer, say
        self.work = path.with_name(f".{path.name}.partial")
        held_out = {reach.name(file): file for file in found("data.held_out_files", _bins(data.held_out_files)).files}
        train = {reach.name(file): file for file in found("data.files", _bins(data.files)).files}
        self.files = {name: file for name, file in train.items() if name not in held_out}
        self.held_out_files = held_out
        told = [[[name, reach.size(file)] for name, file in files.items()] for files in (self.files, held_out)]
        version = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
        self.settings = settings_of(data, version, tokenizer)

    def run(self) -> None:
        self.say(f"Taking {len(self.files) + len(self.held_out_files)} Megatron shards as they are: checking indexes …")
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        write_bytes(self.work / file_name(self.given), self.given)
        tokenizer = open_tokenizer(self.work, self.data.eos_token)
        found, separated = [], True
        for name, file in (self.files | self.held_out_files).items():
            entry, ends, ends_in_eos = _checked(name, file, tokenizer)
            separated &= ends_in_eos
            found.append((name, entry, ends))
        splits = self._splits(found)
        if not all(splits.values()) and not self.held_out_files:
            self.say(
                "  the documents are too few for whole ones to be held out: held out is the end of each shard, the "
                "last "
                f"{self.data.held_out_fraction:.3g} of its tokens"
            )
            splits = self._splits(
                [(name, entry, _as_two(ends, self.data.held_out_fraction)) for name, entry, ends in found], share=0.5
            )
        for split, shards in splits.items():
            if not shards:
                raise ConfigError(
                    f"data.files: no token falls into the {split} split of {len(found)} shards; type "
                    "data.held_out_files=… "
                    "to name other shards for it"
                )
        if not separated:
            self.say(
                f"  documents do not end in the tokenizer's end-of-text token (id {tokenizer.eos_id}); recorded "
                "as separator: false. If they end in another, type data.eos_token=…"
            )
        finish(self.work, self.path, self.settings | {"separator": separated}, tokenizer, splits, self.say)

    def _splits(self, found: list[tuple[str, dict, np.ndarray]], share: float | None = None) -> dict[str, list[dict]]:
        """The shards of each split; of a shard's documents the last `share`, or data.held_out_fraction, is held out."""
        train, held_out = [], []
        for name, entry, ends in found:
            last = 0 if self.held_out_files else share or self.data.held_out_fraction
            first = len(ends) if name in self.held_out_files else round(last * len(ends))
            held_out += _slice(entry, ends, len(ends) - first, len(ends))
            train += _slice(entry, ends, 0, len(ends) - first)
        return {"train": train, "held_out": held_out}


def _bins(patterns: list[str]) -> list[str]:
    """Also Megatron's own way to name a shard, without the ending."""
    return [pattern if pattern.endswith(".bin") else f"{pattern}.bin" for pattern in patterns]


def _checked(name: str, file: OpenFile, tokenizer: Tokenizer) -> tuple[dict, np.ndarray, bool]:
    """(manifest entry of the whole shard, where its documents end, whether they end in eos). Raises DataError."""
    prefix = name.removesuffix(".bin")
    content = _index(f"{prefix}.idx", file)
    index = MegatronIndex(f"{prefix}.idx", content)
    found, expected = reach.size(file), index.num_tokens * index.dtype.itemsize
    if found != expected:
        raise DataError(f"{name}: {found} bytes, but its index tells of {expected}: cut off, or another shard's")
    ends_in_eos = True
    for start in np.unique(np.linspace(0, max(0, index.num_tokens - WINDOW), WINDOWS, dtype=np.int64)).tolist():
        stop = min(start + WINDOW, index.num_tokens)
        with reach.reaching(name, DataError):
            part = _span(file, file.path, start * index.dtype.itemsize, stop * index.dtype.itemsize)
        tokens = np.frombuffer(part, index.dtype)
        outside = tokens[(tokens < 0) | (tokens >= tokenizer.vocab_size)]
        if len(outside):
            raise DataError(
                f"{name}: holds token {outside[0]}, but data.tokenizer has {tokenizer.vocab_size}: it was "
                "made with another tokenizer"
            )
        ends = index.ends[(index.ends > start) & (index.ends <= stop)]
        ends_in_eos &= bool((tokens[ends - 1 - start] == tokenizer.eos_id).all())
    entry = {
        "name": prefix,
        "dtype": index.dtype.name,
        "sha256": {"bin": None, "idx": hashlib.sha256(content).hexdigest()},
    }
    return entry, index.ends, ends_in_eos


def _index(name: str, file: OpenFile) -> bytes:
    """The .idx beside a .bin, read whole only where its size is what its header tells."""
    path = file.path.removesuffix(".bin") + ".idx"
    with reach.reaching(name, DataError):
        size, head = file.fs.size(path), _span(file, path, 0, HEADER.size)
    if size is not None and len(head) == HEADER.size and head.startswith(MAGIC):
        *_, sequences, bounds = HEADER.unpack(head)
        if size != (expected := index_bytes(sequences, bounds)):
            raise DataError(
                f"{name}: {'cut off' if size < expected else 'damaged'}: {size} bytes, but {sequences} sequences in "
                f"{bounds - 1} "
                f"documents need {expected}"
            )
    elif size is not None and size > LARGEST_ODD:
        raise DataError(f"{name}: not a Megatron index (it does not start with MMIDIDX)")
    with reach.reaching(name, DataError):
        return file.fs.cat_file(path)


def _span(file: OpenFile, path: str, begin: int, end: int) -> bytes:
    return file.fs.cat_file(path, start=begin, end=end)  # by name: s3fs has a version's id before them


def _as_two(ends: np.ndarray, fraction: float) -> np.ndarray:
    """A shard as if it were two documents, the second of that share of the tokens."""
    total = int(ends[-1]) if len(ends) else 0
    return np.array([min(total, max(0, total - max(1, round(fraction * total)))), total])


def _slice(entry: dict, ends: np.ndarray, first: int, last: int) -> list[dict]:
    """The manifest entry of documents [first, last) of a shard; none where they hold no token."""
    start, stop = (int(ends[document - 1]) if document else 0 for document in (first, last))
    if start == stop:
        return []
    return [
        {
            "name": entry["name"],
            "documents": last - first,
            "tokens": stop - start,
            "bytes": None,
            "first_token": start,
            "dtype": entry["dtype"],
            "sha256": entry["sha256"],
        }
    ]
