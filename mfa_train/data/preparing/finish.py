"""The end of every preparation: the manifest, then the folder's name."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from mfa_train.config import DataConfig
from mfa_train.data.manifest import FORMAT
from mfa_train.data.tokenizer import Tokenizer


def settings_of(data: DataConfig, source_version: str, tokenizer: bytes | None) -> dict:
    """What tells corpora of all sources apart; `tokenizer` is the content of a given one."""
    return {
        "source": data.source,
        "source_version": source_version,
        "tokenizer": None if tokenizer is None else hashlib.sha256(tokenizer).hexdigest(),
        "eos_token": data.eos_token,
        "held_out_fraction": data.held_out_fraction,
    }


def finish(
    work: Path,
    path: Path,
    settings: dict,
    tokenizer: Tokenizer,
    splits: dict[str, list[dict]],
    say: Callable[[str], None],
) -> None:
    """Writes the manifest of `splits` (their shards) into `work` and gives the folder its name, `path`, which is
    empty or not there."""
    if settings["separator"]:
        say(f"  {tokenizer.separator.told()}")
    summed = {}
    for split, shards in splits.items():
        totals = {
            key: None if None in (values := [shard[key] for shard in shards]) else sum(values)
            for key in ("documents", "tokens", "bytes")
        }
        summed[split] = totals | {"shards": shards}
        rate = "" if totals["bytes"] is None else f", {totals['bytes'] / totals['tokens']:.2f} bytes per token"
        say(f"  {split}: {totals['documents']:,} documents, {totals['tokens']:,} tokens{rate}")
    write_json(
        work / "manifest.json",
        {
            "format": FORMAT,
            **settings,
            "vocab_size": tokenizer.vocab_size,
            "tokenizer_file": tokenizer.path.name,
            "tokenizer_sha256": tokenizer.sha256,
            "separator_token": tokenizer.separator.record,
            "splits": summed,
        },
    )
    (work / "progress.json").unlink(missing_ok=True)
    if path.exists():
        path.rmdir()
    work.rename(path)


def write_json(path: Path, value: dict) -> None:
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
