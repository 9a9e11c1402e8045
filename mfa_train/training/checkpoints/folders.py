"""Checkpoints on disk: whole or invisible, independent of ZeRO stage and number of ranks, and holding no code.

    checkpoints/step-00000100/
        rank-00000.safetensors   one a writing rank: its pieces of masters and moments, its random generators
        manifest.json            all else (step, progress, guard, data, config, versions) and every file's size and
                                 SHA-256, itself under a SHA-256

A checkpoint is written into a folder beside, `….partial-N`, and renamed when every rank is done: that rename is the
moment from which it exists. Reading takes a file only after its checksum; only JSON and safetensors are read, so a file
that was put there by someone else can give wrong numbers at worst, and then the manifest's checksum must be forged too.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mfa_train.data.fields import shown
from mfa_train.data.shards.store import sha256_of
from mfa_train.errors import DataError
from mfa_train.training.checkpoints.engine_state import KINDS, Piece
from mfa_train.training.checkpoints.manifest import RNG, require_cover, require_files, require_manifest, stretch_of

FORMAT = 1
MANIFEST = "manifest.json"
LARGEST = 2**30
"""Bytes of a manifest: of ten thousand ranks it has a hundredth."""


class Damaged(DataError):
    """Not a whole checkpoint; the message names the file and what is wrong with it."""


def folder_of(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def found(checkpoints: Path) -> list[Path]:
    """Those that are visible, the newest first; whether they are whole is `verified`'s to say."""
    if not checkpoints.is_dir():
        return []
    named = (path for path in checkpoints.iterdir() if re.fullmatch(r"step-\d{8,}", path.name) and path.is_dir())
    return sorted(named, key=step_of, reverse=True)


def write_pieces(folder: Path, rank: int, tensors: dict[str, torch.Tensor]) -> dict:
    """Writes one rank's file and gives its entry in the manifest. Raises OSError or SafetensorError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{rank:05d}.safetensors"
    save_file(tensors, path)
    _flush(path)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def publish(partial: Path, checkpoint: Path, files: Iterable[dict], content: dict) -> None:
    """Makes what all ranks have written into `partial` visible as `checkpoint`. Raises OSError."""
    content = content | {"format": FORMAT, "files": list(files)}
    path = partial / MANIFEST
    path.write_text(json.dumps({"sha256": _digest(content), "content": content}, indent=1) + "\n", encoding="utf-8")
    _flush(path)
    _flush(partial)
    if checkpoint.exists():  # a damaged one, passed over when the run was resumed before it
        with contextlib.suppress(OSError):  # out of the way is enough
            remove(checkpoint)
    partial.rename(checkpoint)
    _flush(checkpoint.parent)


def manifest_of(checkpoint: Path) -> dict:
    """The manifest's content; the files it names are not looked at. Raises Damaged."""
    content, expected = _read(checkpoint)
    if _digest(content) != expected:
        raise Damaged(f"{MANIFEST} differs from its checksum")
    if "format" not in content or type(content["format"]) is not int or content["format"] != FORMAT:
        raise Damaged(f"{MANIFEST} is of format {shown(content.get('format'))}, this version reads {FORMAT}")
    try:
        require_manifest(content)
    except ValueError as error:
        raise Damaged(f"{MANIFEST}: {error}") from error
    if re.fullmatch(r"step-\d{8,}", checkpoint.name) and step_of(checkpoint) != content["step"]:
        raise Damaged(f"{MANIFEST} is of step {content['step']}, in a folder {checkpoint.name}")
    return content


def _read(checkpoint: Path) -> tuple[dict, str]:
    """(content, its checksum as told) of the manifest. Raises Damaged."""
    path = checkpoint / MANIFEST
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise ValueError
        manifest = json.loads(path.read_text(encoding="utf-8"))
        content, expected = manifest["content"], manifest["sha256"]
        if not isinstance(content, dict) or not isinstance(expected, str):
            raise TypeError
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} is missing or no manifest ({type(error).__name__})") from error
    return content, expected


def verified(checkpoint: Path) -> dict:
    """The manifest's content, after every file was held against its checksum. Raises Damaged."""
    content = manifest_of(checkpoint)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda entry: _vouch(checkpoint, entry), content["files"]))
    return content


def prune(checkpoints: Path, keep_last: int, keep_every: int | None, at_steps: Sequence[int] = ()) -> None:
    """Removes all but the `keep_last` newest whole ones, those of steps that are multiples of `keep_every`, and those
    `at_steps`. One that is damaged pushes none out. Raises OSError."""
    whole = [checkpoint for checkpoint in found(checkpoints) if plausible(checkpoint)]
    oldest = step_of(whole[:keep_last][-1]) if len(whole) >= keep_last else 0
    for checkpoint in found(checkpoints):
        step = step_of(checkpoint)
        if step >= oldest:
            continue
        if (not keep_every or step % keep_every) and step not in at_steps:
            remove(checkpoint)


def plausible(checkpoint: Path) -> bool:
    """Whether all files are there and of their sizes: what is cheap to see."""
    try:
        content, _ = _read(checkpoint)
        require_files(content)
        return all((checkpoint / entry["name"]).stat().st_size == entry["bytes"] for entry in content["files"])
    except (OSError, ValueError, Damaged):
        return False


def remove(checkpoint: Path) -> None:
    """Out of sight in one rename first: a removal that is cut short leaves nothing that looks like a checkpoint. Raises
    OSError, also where it is out of sight and still takes its room."""
    aside = checkpoint.with_name(f"{checkpoint.name}.partial-removed")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    shutil.rmtree(aside)


def clear_partial(checkpoints: Path) -> None:
    """Removes what killed writers left behind."""
    for path in checkpoints.glob("step-*.partial-*"):
        shutil.rmtree(path, ignore_errors=True)


def key_of(kind: str, piece: Piece) -> str:
    return f"{kind}:{piece.name}:{piece.start}"


class Reader:
    """The pieces of a verified checkpoint, joined and cut as the reading rank needs them.

    `content` is what `verified` gave. Raises Damaged where files and manifest do not make a whole.
    """

    def __init__(self, checkpoint: Path, content: dict):
        self.files, self.stretches = [], {}
        try:
            for entry in content["files"]:
                file = safe_open(checkpoint / entry["name"], framework="pt")
                self.files.append(file)
                for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    if key != RNG:
                        told = file.get_slice(key)
                        kind, name, start, stop = stretch_of(key, told.get_shape(), told.get_dtype())
                        self.stretches.setdefault((kind, name), []).append((start, stop, file, key))
        except (OSError, SafetensorError, ValueError) as error:
            raise Damaged(f"{entry['name']} cannot be read ({error})") from error
        try:
            require_cover(self.stretches)
        except ValueError as error:
            raise Damaged(f"its files do not make a whole: {error}") from error

    @torch.no_grad()
    def fill(self, piece: Piece) -> None:
        """Writes the piece's values into its tensors."""
        for kind in KINDS:
            missing = len(piece)
            for start, stop, file, key in self.stretches.get((kind, piece.name), ()):
                first, last = max(start, piece.start), min(stop, piece.start + len(piece))
                if first < last:
                    values = file.get_slice(key)[first - start : last - start]
                    piece.tensors[kind][first - piece.start : last - piece.start].copy_(values)
                    missing -= last - first
            if missing:
                raise Damaged(f"{missing} of {len(piece)} values of {kind} of {piece.name} are missing or there twice")

    def rng(self, rank: int) -> torch.Tensor:
        """The random generators of `rank`, or of another where there were fewer."""
        file = self.files[rank % len(self.files)]
        try:
            state = file.get_tensor(RNG)
        except SafetensorError as error:
            raise Damaged(f"a file has no {RNG} ({error})") from error
        if state.dtype != torch.uint8 or state.ndim != 1:
            raise Damaged(f"{RNG} is of type {state.dtype} and shape {list(state.shape)}, expected bytes")
        return state


def _vouch(checkpoint: Path, entry: dict) -> None:
    path = checkpoint / entry["name"]
    if not path.is_file():
        raise Damaged(f"{entry['name']} is missing")
    if (size := path.stat().st_size) != entry["bytes"]:
        raise Damaged(f"{entry['name']} has {size:,} bytes instead of {entry['bytes']:,}")
    if sha256_of(path) != entry["sha256"]:
        raise Damaged(f"{entry['name']} differs from its checksum")


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _flush(path: Path) -> None:
    """Waits until the disk has it; a machine that loses its power after the rename has a whole checkpoint."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
