"""What a checkpoint holds beside its tensors: manifest.json, written, read and checked.

    step, updates           steps done; updates that AdamW has made, fewer where some were skipped
    world_size, files       of each rank its file's name, size and SHA-256
    stretches               of each parameter, flattened, which file holds which values: [file, end, …], files counted
                            from 0, values end to end from 0 on, all KINDS alike. Missing in format 1
    progress, guard         `steps.state`: losses since the last record, seconds, samples left out; what the guard saw
    init_from               where the first step's weights came from, or null
    data                    all that the sequence of samples depends on (`Batches.identity`)
    config, versions        of the run and of its libraries
    code_commit             of this repository; null where it was none, missing in older ones
    wandb                   the run's identity there
    ema                     training.ema, where the files hold the average of the weights beside (kind `ema`); missing
                            where they don't
    format                  FORMAT, WITH_EMA where there is such an average, or one of OLDER

All of it stands under a SHA-256 of its own. That is no signature: a manifest that someone wrote may hold anything, so
each field is looked at before any is used. The checks raise ValueError, naming the field.
"""

import hashlib
import json
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mfa_train.data import fields
from mfa_train.errors import DataError

FORMAT, OLDER = 2, (1,)
WITH_EMA = 3
"""Format 2 with `ema`: versions that know no averages don't take it for less than it is."""
MANIFEST = "manifest.json"
LARGEST = 2**30
"""Bytes of a manifest: of ten thousand ranks it has a tenth."""


class Damaged(DataError):
    """Not a whole checkpoint; the message names the file and what is wrong with it."""


def write_manifest(folder: Path, content: dict) -> Path:
    """Writes `content` under its checksum; gives the file, which may not be on the disk yet. Raises OSError."""
    content = content | {"format": WITH_EMA if "ema" in content else FORMAT}
    path = folder / MANIFEST
    path.write_text(json.dumps({"sha256": digest(content), "content": content}) + "\n", encoding="utf-8")
    return path


def stretches_of(held: Sequence[Mapping[str, Sequence[tuple[int, int]]]]) -> dict[str, list[int]]:
    """A manifest's `stretches`: `held` is of each file what (start, stop) it has of each parameter. Raises ValueError
    unless they lie end to end from 0 on."""
    of: dict[str, list[tuple[int, int, int]]] = {}
    for file, stretches in enumerate(held):
        for name, places in stretches.items():
            of.setdefault(name, []).extend((start, stop, file) for start, stop in places if start < stop)
    joined: dict[str, list[int]] = {}
    for name, found in of.items():
        numbers, end = joined.setdefault(name, []), 0
        for start, stop, file in sorted(found):
            if start != end:
                what = "there twice" if start < end else "missing"
                raise ValueError(f"values of {name} are {what} between {min(start, end)} and {max(start, end)}")
            numbers += file, stop
            end = stop
    return joined


def manifest_of(checkpoint: Path) -> dict:
    """The manifest's content; the files it names are not looked at. Raises Damaged."""
    content, checksum = read_manifest(checkpoint)
    if digest(content) != checksum:
        raise Damaged(f"{MANIFEST} differs from its checksum")
    known = (*OLDER, FORMAT, WITH_EMA)
    if "format" not in content or type(content["format"]) is not int or content["format"] not in known:
        raise Damaged(
            f"{MANIFEST} is of format {fields.shown(content.get('format'))}, this version reads "
            f"{', '.join(map(str, known))}"
        )
    try:
        require_content(content)
    except ValueError as error:
        raise Damaged(f"{MANIFEST}: {error}") from error
    name = re.fullmatch(r"step-(\d{8,})", checkpoint.name)
    if name and int(name[1]) != content["step"]:
        raise Damaged(f"{MANIFEST} is of step {content['step']}, in a folder {checkpoint.name}")
    return content


def read_manifest(checkpoint: Path) -> tuple[dict, str]:
    """(content, the checksum that stands beside it), neither checked. Raises Damaged."""
    path = checkpoint / MANIFEST
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise ValueError
        manifest = json.loads(path.read_text(encoding="utf-8"))
        content, checksum = manifest["content"], manifest["sha256"]
        if not isinstance(content, dict) or not isinstance(checksum, str):
            raise TypeError
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} is missing or no manifest ({type(error).__name__})") from error
    return content, checksum


def digest(content: dict) -> str:
    """The checksum that stands beside `content`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def require_content(content: dict) -> None:
    """Raises ValueError where a field is missing, or none that this version could have written."""
    for key in ("step", "updates"):
        fields.count(key, fields.of("", content, key))
    fields.count("updates", content["updates"], most=content["step"])
    world_size = fields.count("world_size", fields.of("", content, "world_size"), 1)
    for key in ("progress", "guard", "data", "config"):
        fields.mapping(key, fields.of("", content, key))
    _require_progress(content["progress"], content["step"])
    _require_guard(content["guard"])
    if content.get("wandb") is not None:
        fields.mapping("wandb", content["wandb"])
    if content.get("init_from") is not None:
        fields.mapping("init_from", content["init_from"])
    fields.mapping("versions", content.get("versions", {}))
    require_files(content)
    if len(content["files"]) != world_size:
        raise ValueError(f"{len(content['files'])} files of {world_size} processes")
    if (content.get("format") == WITH_EMA) != ("ema" in content):
        raise ValueError(f"ema is {'there' if 'ema' in content else 'missing'} in format {content.get('format')}")
    if "ema" in content and not 0 < fields.number("ema", content["ema"]) < 1:
        raise ValueError(f"ema is {fields.shown(content['ema'])}, expected a number between 0 and 1")
    if content.get("format") not in OLDER:
        _require_stretches(fields.mapping("stretches", fields.of("", content, "stretches")), world_size)


def _require_stretches(stretches: dict, files: int) -> None:
    """A million numbers in a large run's: each is looked at, none by a call of its own."""
    for name, numbers in stretches.items():
        where = f"stretches of {fields.shown(name)}"
        if len(fields.listing(where, numbers)) % 2 or not numbers or not all(type(number) is int for number in numbers):
            raise ValueError(f"{where} are {fields.shown(numbers)}, expected [file, end, …] in whole numbers")
        fields.count(f"a file in the {where}", min(numbers[::2]), most=files - 1)
        fields.count(f"a file in the {where}", max(numbers[::2]), most=files - 1)
        ends = numbers[1::2]
        fields.count(f"the first end in the {where}", ends[0], 1)
        fields.count(f"the last end in the {where}", ends[-1], 1)
        if not all(map(operator.lt, ends, ends[1:])):
            raise ValueError(f"the ends in the {where} are not in order")


def require_files(content: dict) -> None:
    """Raises ValueError where the entries of the ranks' files are no such."""
    for rank, entry in enumerate(fields.listing("files", fields.of("", content, "files"))):
        fields.mapping("a file", entry)
        if fields.of("a file", entry, "name") != f"rank-{rank:05d}.safetensors":
            raise ValueError(
                f"file {rank} is called {fields.shown(entry['name'])}, expected rank-{rank:05d}.safetensors"
            )
        fields.count(f"bytes of {entry['name']}", fields.of(entry["name"], entry, "bytes"))
        fields.sha256(f"sha256 of {entry['name']}", fields.of(entry["name"], entry, "sha256"))


def _require_progress(progress: dict, step: int) -> None:
    counts = ("step", "left_out", "rollbacks", "dead_experts")
    others = ("seconds", "losses", "stretches", "idle_experts")
    if unknown := sorted(set(progress) - {*counts, *others}):
        raise ValueError(f"progress holds {fields.shown(unknown[0])}, which this version doesn't know")
    for key in counts:
        fields.count(f"progress.{key}", progress.get(key, 0))
    if fields.of("progress", progress, "step") != step:
        raise ValueError(f"progress.step is {progress['step']}, but step {step}")
    fields.finite("progress.seconds", progress.get("seconds", 0.0))
    for loss in fields.listing("progress.losses", progress.get("losses", [])):
        fields.number("progress.losses", loss)
    for stretch in fields.listing("progress.stretches", progress.get("stretches", [])):
        fields.mapping("progress.stretches", stretch)
        fields.count("from_step of progress.stretches", fields.of("progress.stretches", stretch, "from_step"))
    layers = fields.listing("progress.idle_experts", progress.get("idle_experts", []))
    for layer in layers:
        for records in fields.listing("a layer of progress.idle_experts", layer):
            fields.count("progress.idle_experts", records)
    if len({len(layer) for layer in layers}) > 1:
        raise ValueError("the layers of progress.idle_experts are not of one length")


def _require_guard(guard: dict) -> None:
    for key in ("skipped", "spikes", "in_a_row"):
        if guard:
            fields.count(f"guard.{key}", fields.of("guard", guard, key))
    for key in ("losses", "norms"):
        for value in fields.listing(f"guard.{key}", fields.of("guard", guard, key) if guard else []):
            fields.number(f"guard.{key}", value)
