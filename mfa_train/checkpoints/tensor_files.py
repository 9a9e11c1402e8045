"""The tensors of a checkpoint, one file a rank: pieces of parameters, named KIND:PARAMETER:START, and the states of
random generators. Whoever reads joins and cuts the pieces as it needs them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mfa_train.checkpoints.folders import flush
from mfa_train.checkpoints.manifest import Damaged
from mfa_train.checkpoints.streamed import TensorFile
from mfa_train.data.fields import shown
from mfa_train.data.shards.store import sha256_of

RNG = "rng"
KINDS = ("master", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """A part of one flattened parameter, with what AdamW keeps of it."""

    name: str
    """Of the parameter."""
    start: int
    """Where in the flattened parameter it begins."""
    tensors: dict[str, Tensor]
    """By kind: float32 (length,)."""

    def part(self, begin: int, end: int) -> "Piece":
        """Its values from `begin` to before `end`, counted within it."""
        return Piece(self.name, self.start + begin, {kind: tensor[begin:end] for kind, tensor in self.tensors.items()})

    def __len__(self) -> int:
        return self.tensors["master"].numel()


class Stored(NamedTuple):
    """A piece in a file: values `start` to `stop` of a flattened parameter."""

    start: int
    stop: int
    file: TensorFile
    key: str


def key_of(kind: str, piece: Piece) -> str:
    """The name of a piece's tensor of one kind."""
    return f"{kind}:{piece.name}:{piece.start}"


def write_pieces(folder: Path, rank: int, tensors: dict[str, torch.Tensor]) -> dict:
    """Writes one rank's file and gives its entry in the manifest. Raises OSError or SafetensorError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{rank:05d}.safetensors"
    save_file(tensors, path)
    flush(path)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


class CheckpointReader:
    """The pieces of a verified checkpoint, joined and cut as the reading rank needs them.

    `content` is what `verified` gave. Raises Damaged where files and manifest do not make a whole.
    """

    def __init__(self, checkpoint: Path, content: dict):
        self.files: list[TensorFile] = []
        self.stored: dict[tuple[str, str], list[Stored]] = {}
        """By kind and parameter."""
        try:
            for entry in content["files"]:
                file = TensorFile(checkpoint / entry["name"])
                self.files.append(file)
                for key, placed in file.tensors.items():
                    if key != RNG:
                        kind, name, start, stop = place_of(key, list(placed.shape), placed.dtype)
                        self.stored.setdefault((kind, name), []).append(Stored(start, stop, file, key))
        except (OSError, SafetensorError, ValueError) as error:
            raise Damaged(f"{entry['name']} cannot be read ({error})") from error
        try:
            require_cover(self.stored)
        except ValueError as error:
            raise Damaged(f"its files do not make a whole: {error}") from error

    @property
    def names(self) -> list[str]:
        """Of the parameters."""
        return list(dict.fromkeys(name for _, name in self.stored))

    def length(self, name: str) -> tuple[int]:
        """The shape of a flattened parameter."""
        return (max(piece.stop for piece in self.stored["master", name]),)

    def fill(self, piece: Piece) -> None:
        """Writes the piece's values into its tensors."""
        for kind in KINDS:
            self.read(kind, piece.name, piece.start, piece.tensors[kind])

    def read(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Writes values of a flattened parameter, from `start` on, into out (length,) of any type."""
        missing, end_of_out = len(out), start + len(out)
        for stored in self.stored.get((kind, name), ()):
            begin, end = max(stored.start, start), min(stored.stop, end_of_out)
            if begin < end:
                try:
                    stored.file.read(stored.key, begin - stored.start, out[begin - start : end - start])
                except OSError as error:
                    raise Damaged(f"{stored.file.path.name} cannot be read ({error.strerror})") from error
                missing -= end - begin
        if missing:
            raise Damaged(f"{missing} of {len(out)} values of {kind} of {name} are missing or there twice")

    def rng(self, rank: int) -> torch.Tensor:
        """The random generators of `rank`, or of another where there were fewer."""
        file = self.files[rank % len(self.files)]
        if (placed := file.tensors.get(RNG)) is None:
            raise Damaged(f"{file.path.name} has no {RNG}")
        if placed.dtype != "U8" or len(placed.shape) != 1:
            raise Damaged(f"{RNG} is of type {placed.dtype} and shape {list(placed.shape)}, expected bytes")
        return file.tensor(RNG, torch.uint8)


def place_of(key: str, shape: list[int], dtype: str) -> tuple[str, str, int, int]:
    """(kind, parameter, start, stop) of a tensor in a file. Raises ValueError for one that is no piece."""
    kind, name, start = key.split(":") if key.count(":") == 2 else ("", "", "")
    if kind not in KINDS or not name or not re.fullmatch(r"0|[1-9]\d{0,17}", start, re.ASCII):
        raise ValueError(f"it holds a tensor {shown(key)}, expected KIND:PARAMETER:START")
    if dtype != "F32" or len(shape) != 1:
        raise ValueError(f"{shown(key)} is of type {dtype} and shape {shape}, expected F32 in one dimension")
    return kind, name, int(start), int(start) + shape[0]


def require_cover(stored: dict[tuple[str, str], list[Stored]]) -> None:
    """Raises ValueError unless, of each parameter and kind, the pieces lie end to end from 0 on, and all kinds are of
    one length."""
    lengths: dict[str, set[int]] = {}
    for (kind, name), pieces in stored.items():
        end = 0
        for start, stop in sorted((piece.start, piece.stop) for piece in pieces):
            if start != end:
                what = "there twice" if start < end else "missing"
                raise ValueError(
                    f"values of {kind} of {name} are {what} between {min(start, end)} and {max(start, end)}"
                )
            end = stop
        lengths.setdefault(name, set()).add(end)
    for name, ends in lengths.items():
        kinds = [kind for kind in KINDS if (kind, name) in stored]
        if len(ends) > 1 or len(kinds) != len(KINDS):
            raise ValueError(f"{name} has {', '.join(kinds)} of {' and '.join(map(str, sorted(ends)))} values")
