"""Weights as Hugging Face lays them out.

model.safetensors                     where they fit in one file of a size
model-00001-of-00003.safetensors, …   else, in the model's order; a tensor that is larger has one of its own
model.safetensors.index.json          then: which file holds which, as transformers and vLLM look it up

Values are read as they are asked for; nothing but JSON and safetensors is opened.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from mfa_train.checkpoints.manifest import Damaged
from mfa_train.checkpoints.streamed import TensorFile
from mfa_train.data.fields import shown
from mfa_train.data.shards.store import sha256_of
from mfa_train.errors import ConfigError, DataError
from mfa_train.tracking.records import as_json

FILE = "model.safetensors"
INDEX = f"{FILE}.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TYPES = ("F32", "BF16", "F16")
"""Of values; a quantised weight has others."""
AT_ONCE = 2**24
"""Values that are read at a time, where not all of a weight are needed together."""
Change = Callable[[Tensor], Tensor]


def total_bytes(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> int:
    """Of all tensors."""
    return sum(dtype.itemsize * math.prod(shape) for shape in shapes.values())


def divided(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, shard_bytes: int
) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes by file, in order: as many to one as `shard_bytes` hold, or one that alone is more."""
    parts: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        filled += (size := total_bytes({name: shape}, dtype))
        if parts[-1] and filled > shard_bytes:
            parts.append({})
            filled = size
        parts[-1][name] = shape
    if len(parts) == 1:
        return {FILE: parts[0]}
    stem, suffix = FILE.split(".")
    return {f"{stem}-{number:05d}-of-{len(parts):05d}.{suffix}": part for number, part in enumerate(parts, start=1)}


def write_index(folder: Path, files: Mapping[str, Mapping[str, tuple[int, ...]]], dtype: torch.dtype) -> None:
    """Beside the files that `divided` gave, where they are several. Raises OSError."""
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(total_bytes(part, dtype) for part in files.values())},
            "weight_map": {name: file for file, part in files.items() for name in part},
        }
        (folder / INDEX).write_text(as_json(index, indent=2) + "\n", encoding="utf-8")


class TensorFolder:
    """The weights in `folder`. Raises ConfigError where there are none of this layout, DataError for damaged ones."""

    def __init__(self, folder: Path):
        self.files = [folder / name for name in sorted(set(files_of(folder).values()))]
        self.file_of: dict[str, TensorFile] = {}
        """By the name of a weight."""
        self.shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            try:
                file = TensorFile(path)
            except (OSError, SafetensorError, ValueError, KeyError) as error:
                raise DataError(f"{path}: cannot be read ({error})") from error
            for name, placed in file.tensors.items():
                self.file_of[name], self.shapes[name] = file, placed.shape
                if placed.dtype not in TYPES:
                    raise ConfigError(
                        f"{folder}: {shown(name)} holds values of type {placed.dtype}, expected {', '.join(TYPES)}: "
                        "quantised weights can't be trained on; name a folder with those they were made of"
                    )

    def read(self, name: str, start: int, out: Tensor, rows: int | None = 1, change: Change | None = None) -> None:
        """Writes values of a weight, flattened and as `change` makes it, from `start` on into out (length,) of any
        type. `change` gets float32: `rows` of them or a multiple, beginning at one; None: all, and it may change the
        shape. Raises DataError."""
        if rows is not None and len(out) > AT_ONCE:
            for begin in range(0, len(out), AT_ONCE):
                self.read(name, start + begin, out[begin : begin + AT_ONCE], rows, change)
            return
        file, shape = self.file_of[name], self.shapes[name]
        try:
            if change is None:
                file.read(name, start, out)
                return
            width = math.prod(shape[1:])
            begin, end = 0, shape[0]
            if rows is not None:
                begin = start // (rows * width) * rows
                end = min(-(-(start + len(out)) // (rows * width)) * rows, end)
            read = torch.empty((end - begin) * width)
            file.read(name, begin * width, read)
            values = change(read.view(end - begin, *shape[1:])).reshape(-1)
        except (OSError, Damaged) as error:
            raise DataError(f"{file.path}: {shown(name)} cannot be read ({error})") from error
        first = start - begin * width
        out.copy_(values[first : first + len(out)])

    def sums(self, share: slice) -> dict[str, str]:
        """The SHA-256 of each file of a share, by its name. Raises OSError."""
        files = self.files[share]
        with ThreadPoolExecutor(4) as threads:
            return dict(zip([path.name for path in files], threads.map(sha256_of, files)))

    def sha256(self, sums: Mapping[str, str]) -> str:
        """Of the file; of several, of the lines that `sha256sum *.safetensors` prints for those that are read. `sums`
        are those of all."""
        if len(self.files) == 1:
            return sums[self.files[0].name]
        lines = "".join(f"{sums[path.name]}  {path.name}\n" for path in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()


def files_of(folder: Path) -> dict[str, str]:
    """In which file of the folder each weight lies; under "" the only one."""
    index = folder / INDEX
    if (folder / FILE).is_file():
        return {"": FILE}
    if not index.is_file():
        pickles = [path.name for kind in PICKLES for path in sorted(folder.glob(kind))]
        told = f" ({pickles[0]} is a pickle, which runs code as it is read)" if pickles else ""
        raise ConfigError(
            f"{folder}: holds neither {FILE} nor {INDEX}{told}; load the model in transformers and type "
            "model.save_pretrained(FOLDER), which writes safetensors"
        )
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        named = sorted(set(files.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{index}: no index of weights ({type(error).__name__})") from error
    for name in named:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(
                f"{index}: names {shown(name)}, expected files of its own folder, as model-00001.safetensors"
            )
        if not (folder / name).is_file():
            raise DataError(f"{index}: names {shown(name)}, which is not there")
    return files
