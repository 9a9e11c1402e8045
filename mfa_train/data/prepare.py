"""Text to tokens, once: train the tokenizer on the training documents, encode both splits, write the manifest.

The corpus is written into a folder beside its place and renamed into it when whole, so a killed preparation leaves
nothing that could be taken for a corpus, and of two at once the first to finish wins.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mfa_train.data import python_stdlib
from mfa_train.data.corpus import FORMAT, SPLITS, Corpus, read_manifest, sha256_of
from mfa_train.data.token_shards import write_shard
from mfa_train.data.tokenizer import MIN_VOCAB_SIZE, Tokenizer, train_sentencepiece
from mfa_train.errors import ConfigError, DataError, did_you_mean

SOURCES = {"python_stdlib": python_stdlib}
"""Modules with `documents()`, `held_out(name, fraction)` and `version()`."""


def prepare(source: str, path: Path | str, vocab_size: int, held_out_fraction: float,
            say: Callable[[str], None] = print) -> Corpus:
    """The corpus in `path`, made where it isn't there yet.

    Raises ConfigError for an unknown source, a vocabulary out of range, a split without documents, or a folder that
    holds a corpus made with other settings or anything else; what is there stays as it was.
    """
    path = Path(path)
    if source not in SOURCES:
        raise ConfigError(f"data.source={source}: no such source.{did_you_mean(source, SOURCES)}")
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(f"data.vocab_size={vocab_size}: expected at least {MIN_VOCAB_SIZE}")
    if not 0 < held_out_fraction < 1:
        raise ConfigError(f"data.held_out_fraction={held_out_fraction}: expected a share between 0 and 1, as 0.05")
    settings = {"source": source, "source_version": SOURCES[source].version(), "vocab_size": vocab_size,
                "held_out_fraction": held_out_fraction}
    if not _is_prepared(path, settings):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except OSError as error:
            raise ConfigError(f"data.path={path}: {path.parent} cannot be written ({error.strerror}); type data_dir=FOLDER "
                              "with one that can") from error
        try:
            _write(work, settings, say)
            work.chmod(0o755)
            try:
                work.rename(path)
            except OSError:  # another process was first
                _is_prepared(path, settings)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Corpus(path, check=True)


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


def _write(folder: Path, settings: dict, say: Callable[[str], None]) -> None:
    source = SOURCES[settings["source"]]
    say(f"Preparing {settings['source']} {settings['source_version']}: reading, training a tokenizer, tokenising …")
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name, text in source.documents():
        texts["held_out" if source.held_out(name, settings["held_out_fraction"]) else "train"].append(text)
    for split in SPLITS:
        if not texts[split]:
            raise ConfigError(f"data.held_out_fraction={settings['held_out_fraction']}: no document falls into the "
                              f"{split} split; type data.held_out_fraction=0.05")
    (folder / "tokenizer.model").write_bytes(train_sentencepiece(texts["train"], settings["vocab_size"]))
    tokenizer = Tokenizer(folder / "tokenizer.model")
    splits = {}
    for split in SPLITS:
        documents = [np.array([*ids, tokenizer.eos_id]) for ids in tokenizer.encode(texts[split])]
        write_shard(folder / split, documents, tokenizer.vocab_size)
        splits[split] = {
            "documents": len(documents), "tokens": sum(map(len, documents)),
            "bytes": sum(len(text.encode()) for text in texts[split]),
            "sha256": {suffix: sha256_of(folder / f"{split}.{suffix}")
                       for suffix in ("bin", "idx")},
        }
        say(f"  {split}: {splits[split]['documents']:,} documents, {splits[split]['tokens']:,} tokens, "
            f"{splits[split]['bytes'] / splits[split]['tokens']:.2f} bytes per token")
    manifest = {"format": FORMAT, **settings, "tokenizer_sha256": tokenizer.sha256, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
