"""safetensors files, read and written a tensor or a piece of one at a time: no more than that is in memory.

safetensors itself maps a file that it reads, and pages once touched count as this process's memory; it writes a file
from all its tensors at once. The form of a file: 8 bytes, the header's length, little-endian; the header, JSON of
{name: {dtype, shape, data_offsets}}; the tensors' bytes (https://huggingface.co/docs/safetensors, "Format").
"""

import contextlib
import hashlib
import json
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from mfa_train.checkpoints.manifest import Damaged

TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "U8": torch.uint8}
"""By their names in a header."""
AT_ONCE = 2**24
"""Bytes that are read at a time where values are of another type than is asked for, and that are written at a time."""


class Placed(NamedTuple):
    """A tensor in a file."""

    dtype: str
    """As the header has it."""
    shape: tuple[int, ...]
    begin: int
    """Of its bytes in the file."""


class Opened:
    """A file that is open as long as someone has this."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class TensorFile:
    """A safetensors file that is opened for each reading, unless someone has its `opened`: any number of them may be
    held. Raises OSError or SafetensorError where it is none, Damaged where another has taken its place since."""

    def __init__(self, path: Path):
        self.path = path
        self.last: weakref.ref[Opened] | None = None
        with safe_open(path, framework="pt"):  # holds the header against the file's size
            pass
        with self._open() as file:
            self.identity = _identity(file)
            length = int.from_bytes(os.pread(file, 8, 0), "little")
            header = json.loads(os.pread(file, length, 8))
        self.tensors = {
            name: Placed(entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in header.items()
            if name != "__metadata__"
        }
        """By name."""

    @torch.no_grad()
    def read(self, name: str, start: int, out: Tensor) -> None:
        """Writes values of a flattened tensor, from `start` on, into out (length,) of any type."""
        placed = self.tensors[name]
        dtype = TYPES[placed.dtype]
        as_it_is = out.dtype == dtype and out.device.type == "cpu" and out.is_contiguous()
        at_once = AT_ONCE // dtype.itemsize
        buffer = torch.empty(0 if as_it_is else min(len(out), at_once), dtype=dtype)
        with self._open() as file:
            if _identity(file) != self.identity:
                raise Damaged(f"{self.path.name} is another file than when it was opened")
            for begin in range(0, len(out), at_once):
                part = out[begin : begin + at_once]
                into = part if as_it_is else buffer[: len(part)]
                self._fill(file, placed.begin + dtype.itemsize * (start + begin), into)
                if not as_it_is:
                    part.copy_(into)

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """One of them in `dtype`."""
        shape = self.tensors[name].shape
        out = torch.empty(math.prod(shape), dtype=dtype)
        self.read(name, 0, out)
        return out.view(shape)

    def _fill(self, file: int, begin: int, into: Tensor) -> None:
        view, done = memory_of(into), 0
        while done < len(view):
            if not (count := os.preadv(file, [view[done:]], begin + done)):
                raise Damaged(f"{self.path.name} ends after {begin + done:,} bytes")
            done += count

    def opened(self) -> Opened:
        """The file, which readings use as long as it is kept. Raises OSError."""
        opened = self.last() if self.last else None
        if opened is None:
            opened = Opened(self.path)
            self.last = weakref.ref(opened)
        return opened

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        opened = self.opened()
        yield opened.descriptor


def write_mixed(
    path: Path, forms: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], made: Callable[[str], Tensor]
) -> str:
    """Writes tensors of these types and shapes, in this order and without gaps, each as `made` gives it when its turn
    comes, and waits until the disk has them; gives the file's SHA-256. A type's values may begin at any byte, which
    safetensors reads. Raises OSError. Other threads run while bytes are summed and written, which they cannot while
    safetensors below 0.8 writes."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    names = {dtype: name for name, dtype in TYPES.items()}
    end = 0
    for name, (dtype, shape) in forms.items():
        begin, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)  # the bytes behind it begin where any type may
    digest = hashlib.sha256()
    with path.open("xb") as file:

        def write(content: bytes | memoryview) -> None:
            for begin in range(0, len(content), AT_ONCE):  # summed and written while the processor's cache has it
                part = content[begin : begin + AT_ONCE]
                digest.update(part)
                file.write(part)

        write(len(told).to_bytes(8, "little") + told)
        for name, (dtype, shape) in forms.items():
            tensor = made(name)
            if tensor.dtype != dtype or tensor.shape != shape:
                raise AssertionError(f"{name}: {tensor.dtype} {list(tensor.shape)}, told as {dtype} {list(shape)}")
            write(memory_of(tensor.contiguous().flatten()))
            del tensor  # before the next is made
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor (length,) themselves."""
    array: Any = tensor.detach().view(torch.uint8).numpy()
    return memoryview(array)


def _identity(file: int) -> tuple[int, int, int]:
    found = os.fstat(file)
    return found.st_dev, found.st_ino, found.st_mtime_ns
