"""What a checkpoint's manifest and the tensors in its files can be: looked at before any of it is used.

Each check raises ValueError, naming the field.
"""

import re
from collections.abc import Iterable

from mfa_train.data import fields
from mfa_train.training.checkpoints.engine_state import KINDS

RNG = "rng"


def require_manifest(content: dict) -> None:
    """A checksum is no signature: a manifest that someone wrote may hold anything."""
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
    fields.mapping("versions", content.get("versions", {}))
    require_files(content)
    if len(content["files"]) != world_size:
        raise ValueError(f"{len(content['files'])} files of {world_size} processes")


def require_files(content: dict) -> None:
    for rank, entry in enumerate(fields.listing("files", fields.of("", content, "files"))):
        fields.mapping("a file", entry)
        if fields.of("a file", entry, "name") != f"rank-{rank:05d}.safetensors":
            raise ValueError(
                f"file {rank} is called {fields.shown(entry['name'])}, expected rank-{rank:05d}.safetensors"
            )
        fields.count(f"bytes of {entry['name']}", fields.of(entry["name"], entry, "bytes"))
        fields.sha256(f"sha256 of {entry['name']}", fields.of(entry["name"], entry, "sha256"))


def _require_progress(progress: dict, step: int) -> None:
    counts, others = ("step", "left_out", "rollbacks"), ("seconds", "losses", "stretches")
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


def _require_guard(guard: dict) -> None:
    for key in ("skipped", "spikes", "in_a_row"):
        if guard:
            fields.count(f"guard.{key}", fields.of("guard", guard, key))
    for key in ("losses", "norms"):
        for value in fields.listing(f"guard.{key}", fields.of("guard", guard, key) if guard else []):
            fields.number(f"guard.{key}", value)


def stretch_of(key: str, shape: list[int], dtype: str) -> tuple[str, str, int, int]:
    """(kind, parameter, start, stop) of a tensor in a file."""
    kind, name, start = key.split(":") if key.count(":") == 2 else ("", "", "")
    if kind not in KINDS or not name or not re.fullmatch(r"0|[1-9]\d{0,17}", start, re.ASCII):
        raise ValueError(f"it holds a tensor {fields.shown(key)}, expected KIND:PARAMETER:START")
    if dtype != "F32" or len(shape) != 1:
        raise ValueError(f"{fields.shown(key)} is of type {dtype} and shape {shape}, expected F32 in one dimension")
    return kind, name, int(start), int(start) + shape[0]


def require_cover(stretches: dict[tuple[str, str], Iterable[tuple]]) -> None:
    """Of each parameter and kind the stretches (start, stop, …) lie end to end from 0 on, and all kinds are of one
    length."""
    lengths: dict[str, set[int]] = {}
    for (kind, name), parts in stretches.items():
        end = 0
        for start, stop in sorted(part[:2] for part in parts):
            if start != end:
                what = "there twice" if start < end else "missing"
                raise ValueError(
                    f"values of {kind} of {name} are {what} between {min(start, end)} and {max(start, end)}"
                )
            end = stop
        lengths.setdefault(name, set()).add(end)
    for name, found in lengths.items():
        kinds = [kind for kind in KINDS if (kind, name) in stretches]
        if len(found) > 1 or len(kinds) != len(KINDS):
            raise ValueError(f"{name} has {', '.join(kinds)} of {' and '.join(map(str, sorted(found)))} values")
