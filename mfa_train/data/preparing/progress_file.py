"""progress.json of a preparation: which shards are finished. The same command goes on behind them."""

import json
import shutil
from pathlib import Path

from mfa_train.data import fields
from mfa_train.data.manifest import SPLITS, require_shard
from mfa_train.data.preparing.finish import write_json

ENCODING = 3
"""Raised where the same tokenizer's file gives other tokens, or progress.json tells of them otherwise: a preparation
that began before doesn't go on."""


def read(work: Path, settings: dict) -> dict | None:
    """What an earlier preparation with the same `settings` left in the folder `work`; None where there is none such, or
    a damaged one."""
    try:
        progress = json.loads((work / "progress.json").read_text(encoding="utf-8"))
        same = (progress["settings"], progress["encoding"]) == (settings, ENCODING)
        return progress if same and _has(work, progress["parts"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def begin(work: Path, settings: dict) -> dict:
    """An empty one, in an empty folder."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    progress = {"settings": settings, "encoding": ENCODING, "parts": []}
    write(work, progress)
    return progress


def write(work: Path, progress: dict) -> None:
    write_json(work / "progress.json", progress)


def _has(work: Path, parts: list[dict]) -> bool:
    """Whether the shards that progress.json tells of are there. Raises ValueError and the like for what is no list of
    them."""
    for number, part in enumerate(parts):
        fields.count("documents", part["documents"], 1)
        fields.count("changed", part["changed"])
        for split, entry in part["splits"].items():
            if split not in SPLITS or entry["name"] != f"{split}-{number:05}":
                return False
            require_shard(split, entry, str(work), False)
            suffixes = ("bin", "idx", "parts") if "parts" in entry else ("bin", "idx")
            if not all((work / f"{entry['name']}.{suffix}").is_file() for suffix in suffixes):
                return False
    return True
