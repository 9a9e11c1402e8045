"""The weights of an export as safetensors files, a tensor in memory at a time.

model.safetensors                     where they fit in one of --shard-bytes
model-00001-of-00003.safetensors, …   else, in the model's order; a tensor that is larger has one of its own
model.safetensors.index.json          then: which file holds which, as transformers and vLLM look it up
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from mfa_train.checkpoints.safetensors_folder import INDEX
from mfa_train.checkpoints.streamed import write_tensors
from mfa_train.checkpoints.weights import FILE, RunWeights
from mfa_train.export.formats import Format
from mfa_train.tracking.records import as_json


def shapes_there(form: Format, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Of the form's weights, by its names, where ours have `shapes`."""
    return {
        name: tuple(form.there(name, torch.empty(shapes[ours], device="meta")).shape)
        for name, ours in form.sources(shapes).items()
    }


def total_bytes(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> int:
    """Of all tensors."""
    return sum(dtype.itemsize * math.prod(shape) for shape in shapes.values())


def divided(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, shard_bytes: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes by file, in order: as many to one as `shard_bytes` hold, or one that alone is more."""
    parts: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if parts[-1] and total_bytes(parts[-1] | {name: shape}, dtype) > shard_bytes:
            parts.append({})
        parts[-1][name] = shape
    if len(parts) == 1:
        return {FILE: parts[0]}
    stem, suffix = FILE.split(".")
    return {f"{stem}-{number:05d}-of-{len(parts):05d}.{suffix}": part for number, part in enumerate(parts, start=1)}


def write_weights(
    folder: Path,
    form: Format,
    weights: RunWeights,
    dtype: torch.dtype,
    shard_bytes: int,
    tell: Callable[[str], None],
) -> dict[str, str]:
    """Writes them in the form's names; gives each file's SHA-256. `tell` is called behind each of several. Raises
    OSError, and DataError where the weights cannot be read."""
    sources = form.sources(weights.shapes)
    shapes = shapes_there(form, weights.shapes)
    files = divided(shapes, dtype, shard_bytes)
    sums = {}
    for file, part in files.items():
        sums[file] = write_tensors(
            folder / file, dtype, part, lambda name: form.there(name, weights.tensor(sources[name], dtype))
        )
        if len(files) > 1:
            tell(f"{file}: {total_bytes(part, dtype):,} bytes")
    if len(files) > 1:
        index = {
            "metadata": {"total_size": total_bytes(shapes, dtype)},
            "weight_map": {name: file for file, part in files.items() for name in part},
        }
        (folder / INDEX).write_text(as_json(index, indent=2) + "\n", encoding="utf-8")
    return sums
