"""Text to tokens, once: train the tokenizer on the first documents, encode all of them into shards, write the manifest.

    1. The folder is written beside its place, as .NAME.partial, and renamed when whole: what has the name is a corpus.
    2. The tokenizer is trained on the first training documents, up to data.tokenizer_bytes of text.
    3. Documents are read in order, encoded on all cores, and written shard by shard: one of each split for every
       data.shard_bytes of text. progress.json tells how many documents the finished shards hold.
    4. manifest.json vouches for every file.

Killed at any moment and started again it goes on behind the last finished shards; the files come out the same.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from mfa_train.config import DataConfig
from mfa_train.data import python_stdlib
from mfa_train.data.corpus import FORMAT, SPLITS, Corpus, read_manifest, sha256_of
from mfa_train.data.files import Files
from mfa_train.data.token_shards import write_shard
from mfa_train.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer, train_sentencepiece
from mfa_train.errors import ConfigError, DataError, did_you_mean

BATCH_BYTES = 2**22
"""Text that is encoded at once: enough for all cores, little enough for memory."""


class Source(Protocol):
    def version(self) -> str:
        """Changes when the documents do."""

    def documents(self) -> Iterator[tuple[str, str]]:
        """(place, text), the same ones in the same order each time."""

    def held_out(self, place: str, text: str, fraction: float) -> bool:
        """Whether the document is kept from training."""


def prepare(data: DataConfig, say: Callable[[str], None] = print, check: bool = False) -> Corpus:
    """The corpus in data.path, made where it isn't there yet; of two at once the second waits for the first. With `check`
    one that is there is read whole and held against its checksums.

    Raises ConfigError for an unknown source, a vocabulary out of range, a split without documents, or a folder that
    holds a corpus made with other settings or anything else; DataError for a document that cannot be read. What is there
    stays as it was.
    """
    path, source = Path(data.path), _source(data)
    if data.vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(f"data.vocab_size={data.vocab_size}: expected at least {MIN_VOCAB_SIZE}")
    settings = {"source": data.source, "source_version": source.version(), "vocab_size": data.vocab_size,
                "held_out_fraction": data.held_out_fraction, "shard_bytes": data.shard_bytes,
                "tokenizer_bytes": data.tokenizer_bytes}
    if not _is_prepared(path, settings):
        with _alone(path):
            if not _is_prepared(path, settings):  # another process was first
                _Preparation(path, source, settings, say).run()
                check = True
    return Corpus(path, check=check)


def _source(data: DataConfig) -> Source:
    if data.source == "python_stdlib":
        return python_stdlib
    if data.source == "files":
        return Files(data.files, data.text_key)
    raise ConfigError(f"data.source={data.source}: no such source.{did_you_mean(data.source, ('python_stdlib', 'files'))}")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock beside `path`, which goes with the process that holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f".{path.name}.lock"), "w")
    except OSError as error:
        raise ConfigError(f"data.path={path}: {path.parent} cannot be written ({error.strerror}); type data_dir=FOLDER "
                          "with one that can") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_prepared(path: Path, settings: dict) -> bool:
    if not path.exists() or path.is_dir() and not any(path.iterdir()):
        return False
    try:
        manifest = read_manifest(path)
    except (DataError, OSError) as error:
        raise ConfigError(f"data.path={path}: holds something else than a prepared corpus ({error})") from error
    for key, value in settings.items():
        if manifest[key] != value:
            raise ConfigError(f"data.{key}={value}: {path} holds a corpus with {key}={manifest[key]}; type data.path=… for "
                              "another place")
    return True


class _Preparation:
    def __init__(self, path: Path, source: Source, settings: dict, say: Callable[[str], None]):
        self.path, self.source, self.settings, self.say = path, source, settings, say
        self.work = path.with_name(f".{path.name}.partial")

    def run(self) -> None:
        progress = self._resume()
        tokenizer = self._tokenizer()
        documents = self.source.documents()
        done = sum(part["documents"] for part in progress["parts"])
        for _ in islice(documents, done):
            pass
        with tqdm(unit=" tokens", unit_scale=True, disable=None, dynamic_ncols=True) as bar:  # on a terminal alone
            while part := self._part(documents, len(progress["parts"]), tokenizer, bar):
                progress["parts"].append(part)
                _write_json(self.work / "progress.json", progress)
        self._finish(progress["parts"], tokenizer)

    def _resume(self) -> dict:
        """What an earlier preparation with the same settings left; else a fresh start."""
        name = f"{self.settings['source']} {self.settings['source_version']}"
        try:
            progress = json.loads((self.work / "progress.json").read_text(encoding="utf-8"))
            if progress["settings"] == self.settings:
                self.say(f"Preparing {name}: going on behind {len(progress['parts'])} finished shards …")
                return progress
        except (OSError, ValueError, KeyError):
            pass
        self.say(f"Preparing {name}: reading, training a tokenizer, tokenising …")
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        progress = {"settings": self.settings, "parts": []}
        _write_json(self.work / "progress.json", progress)
        return progress

    def _held_out(self, place: str, text: str) -> bool:
        return self.source.held_out(place, text, self.settings["held_out_fraction"])

    def _tokenizer(self) -> Tokenizer:
        path = self.work / "tokenizer.model"
        if not path.is_file():
            texts, size = [], 0
            for place, text in self.source.documents():
                if not self._held_out(place, text):
                    texts.append(text)
                    size += len(text.encode())
                    if size >= self.settings["tokenizer_bytes"]:
                        break
            if not texts:
                raise self._no_documents("train")
            partial = path.with_suffix(".partial")
            partial.write_bytes(train_sentencepiece(texts, self.settings["vocab_size"]))
            os.replace(partial, path)
        return Tokenizer(path)

    def _part(self, documents: Iterator[tuple[str, str]], number: int, tokenizer: Tokenizer, bar: tqdm) -> dict | None:
        """The next shard of each split; None behind the last document."""
        encoded: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        sizes = dict.fromkeys(SPLITS, 0)
        count = 0
        for batch in _batches(documents, self.settings["shard_bytes"]):
            ids = tokenizer.encode([text for _, text in batch])
            for (place, text), tokens in zip(batch, ids):
                split = "held_out" if self._held_out(place, text) else "train"
                encoded[split].append(np.array([*tokens, tokenizer.eos_id], dtype=np.int32))
                sizes[split] += len(text.encode())
            count += len(batch)
            bar.update(sum(map(len, ids)))
        if not count:
            return None
        part: dict = {"documents": count, "splits": {}}
        for split in (split for split in SPLITS if encoded[split]):
            name = f"{split}-{number:05}"
            write_shard(self.work / name, encoded[split], tokenizer.vocab_size)
            part["splits"][split] = {
                "name": name, "documents": len(encoded[split]), "tokens": sum(map(len, encoded[split])), "bytes": sizes[split],
                "dtype": "uint16" if tokenizer.vocab_size <= 65500 else "int32",
                "sha256": {suffix: sha256_of(self.work / f"{name}.{suffix}") for suffix in ("bin", "idx")},
            }
        return part

    def _finish(self, parts: list[dict], tokenizer: Tokenizer) -> None:
        splits = {}
        for split in SPLITS:
            shards = [part["splits"][split] for part in parts if split in part["splits"]]
            if not shards:
                raise self._no_documents(split)
            totals = {key: sum(shard[key] for shard in shards) for key in ("documents", "tokens", "bytes")}
            splits[split] = totals | {"shards": shards}
            self.say(f"  {split}: {totals['documents']:,} documents, {totals['tokens']:,} tokens, "
                     f"{totals['bytes'] / totals['tokens']:.2f} bytes per token")
        manifest = {"format": FORMAT, **self.settings, "tokenizer_sha256": tokenizer.sha256, "tokenizer_file": "tokenizer.model", "splits": splits}
        _write_json(self.work / "manifest.json", manifest)
        (self.work / "progress.json").unlink()
        if self.path.exists():
            self.path.rmdir()  # empty, or `_is_prepared` would have raised
        self.work.rename(self.path)

    def _no_documents(self, split: str) -> ConfigError:
        return ConfigError(f"data.held_out_fraction={self.settings['held_out_fraction']}: no document falls into the "
                           f"{split} split; type data.held_out_fraction=0.05")


def _batches(documents: Iterator[tuple[str, str]], most_bytes: int) -> Iterator[list[tuple[str, str]]]:
    """Batches of documents until they hold `most_bytes` of text."""
    total = size = 0
    batch = []
    for document in documents:
        batch.append(document)
        size += len(document[1].encode())
        if size >= BATCH_BYTES or total + size >= most_bytes:
            yield batch
            total, size, batch = total + size, 0, []
            if total >= most_bytes:
                return
    if batch:
        yield batch


def _write_json(path: Path, value: dict) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
