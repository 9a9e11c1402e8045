"""The weights of an export as safetensors files, a tensor in memory at a time."""

from collections.abc import Callable
from pathlib import Path

import torch

from mfa_train.checkpoints.safetensors_folder import divided, total_bytes, write_index
from mfa_train.checkpoints.streamed import write_mixed
from mfa_train.checkpoints.weights import RunWeights
from mfa_train.export.formats import Format
from mfa_train.feed_forward.names import held_in


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
    sources, shapes = form.sources(weights.in_model), form.shapes(weights.in_model)
    files = divided(shapes, dtype, shard_bytes)
    sums = {}
    for file, part in files.items():
        forms = {name: (held_in(name, dtype), shape) for name, shape in part.items()}
        sums[file] = write_mixed(
            folder / file, forms, lambda name: form.there(name, weights.tensor(sources[name], dtype))
        )
        if len(files) > 1:
            tell(f"{file}: {total_bytes(part, dtype):,} bytes")
    write_index(folder, files, dtype)
    return sums
