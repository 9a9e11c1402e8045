"""Checkpoints on disk: whole or invisible, independent of ZeRO stage and number of ranks, and holding no code.

    checkpoints/step-00000100/
        rank-00000.safetensors   one a writing rank: its pieces of masters and moments, its random generators (`reader`)
        manifest.json            all else, and every file's size and SHA-256 (`manifest`)

A checkpoint is written into a folder beside, `….partial-N`, and renamed when every rank is done: that rename is the
moment from which it exists. Reading takes a file only after its checksum; only JSON and safetensors are read, so a file
that was put there by someone else can give wrong numbers at worst, and then the manifest's checksum must be forged too.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mfa_train.checkpoints.manifest import (
    Damaged,
    manifest_of,
    read_manifest,
    require_files,
    stretches_of,
    write_manifest,
)
from mfa_train.data.shards.store import sha256_of

AVERAGED = "-ema"
"""Behind the name of a run's state, final or step-N: the average of its weights (training.ema)."""


def folder_of(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of `step` is, or is going to be."""
    return checkpoints / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """After which step it was made, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


def newest_first(checkpoints: Path) -> list[Path]:
    """The checkpoints that are visible in the folder; whether they are whole is `verified`'s to say."""
    if not checkpoints.is_dir():
        return []
    named = (path for path in checkpoints.iterdir() if re.fullmatch(r"step-\d{8,}", path.name) and path.is_dir())
    return sorted(named, key=step_of, reverse=True)


def publish(partial: Path, checkpoint: Path, files: Iterable[dict], content: dict) -> None:
    """Makes what all ranks have written into `partial` visible as `checkpoint`: `files` are what `write_pieces` told of
    each, `content` is all else. Raises OSError."""
    entries = [dict(entry) for entry in files]
    stretches = stretches_of([entry.pop("held") for entry in entries])
    flush(write_manifest(partial, content | {"files": entries, "stretches": stretches}))
    flush(partial)
    if checkpoint.exists():  # a damaged one, passed over when the run was resumed before it
        with contextlib.suppress(OSError):  # out of the way is enough
            remove(checkpoint)
    partial.rename(checkpoint)
    flush(checkpoint.parent)


def verified(checkpoint: Path) -> dict:
    """The manifest's content, after every file was held against its checksum. Raises Damaged."""
    content = manifest_of(checkpoint)
    verify_files(checkpoint, content["files"])
    return content


def verify_files(checkpoint: Path, entries: Sequence[dict]) -> None:
    """Holds files against their entries in the manifest. Raises Damaged."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda entry: _verify(checkpoint, entry), entries))


def _verify(checkpoint: Path, entry: dict) -> None:
    path = checkpoint / entry["name"]
    if not path.is_file():
        raise Damaged(f"{entry['name']} is missing")
    if (size := path.stat().st_size) != entry["bytes"]:
        raise Damaged(f"{entry['name']} has {size:,} bytes instead of {entry['bytes']:,}")
    if sha256_of(path) != entry["sha256"]:
        raise Damaged(f"{entry['name']} differs from its checksum")


def plausible(checkpoint: Path) -> bool:
    """Whether all files are there and of their sizes: what is cheap to see."""
    try:
        content, _ = read_manifest(checkpoint)
        require_files(content)
        return all((checkpoint / entry["name"]).stat().st_size == entry["bytes"] for entry in content["files"])
    except (OSError, ValueError, Damaged):
        return False


def prune(checkpoints: Path, keep_last: int, keep_every: int | None, at_steps: Sequence[int] = ()) -> None:
    """Removes those that are `outdated`. One that is damaged pushes none out. Raises OSError."""
    there = newest_first(checkpoints)
    whole = [step_of(checkpoint) for checkpoint in there if plausible(checkpoint)]
    for step in outdated(map(step_of, there), whole, keep_last, keep_every, at_steps):
        remove(folder_of(checkpoints, step))


def outdated(
    steps: Iterable[int], whole: Iterable[int], keep_last: int, keep_every: int | None, at_steps: Sequence[int]
) -> list[int]:
    """Of `steps` all but the `keep_last` newest `whole` ones, what is newer than these, multiples of `keep_every`, and
    `at_steps`."""
    newest = sorted(whole, reverse=True)[:keep_last]
    oldest = newest[-1] if len(newest) == keep_last else 0
    return [step for step in steps if step < oldest and (not keep_every or step % keep_every) and step not in at_steps]


def remove(checkpoint: Path) -> None:
    """Removes it, out of sight in one rename first: a removal that is cut short leaves nothing that looks like a
    checkpoint. Raises OSError, also where it is out of sight and still takes its room."""
    aside = checkpoint.with_name(f"{checkpoint.name}.partial-removed")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    shutil.rmtree(aside)


def clear_partial(checkpoints: Path) -> None:
    """Removes what killed writers left behind."""
    for path in checkpoints.glob("step-*.partial-*"):
        shutil.rmtree(path, ignore_errors=True)


def flush(path: Path) -> None:
    """Waits until the disk has it; a machine that loses its power after the rename has a whole checkpoint."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
