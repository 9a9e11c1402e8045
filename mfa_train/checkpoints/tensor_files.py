"""The tensors of a checkpoint, one file a rank: pieces of parameters, named KIND:PARAMETER:START, and the states of
random generators. Whoever reads joins and cuts the pieces as it needs them.
"""

import bisect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from mfa_train.checkpoints.manifest import MANIFEST, OLDER, Damaged, stretches_of
from mfa_train.checkpoints.streamed import Opened, TensorFile, write_mixed
from mfa_train.data.fields import shown

RNG = "rng"
KINDS = ("master", "exp_avg", "exp_avg_sq")
EMA = "ema"
"""One more, of a run with training.ema."""


@dataclass(frozen=True)
class Piece:
    """A part of one flattened parameter, with what AdamW keeps of it, and its average where there is one."""

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


def key_of(kind: str, piece: Piece) -> str:
    """The name of a piece's tensor of one kind."""
    return f"{kind}:{piece.name}:{piece.start}"


def write_pieces(folder: Path, rank: int, tensors: dict[str, torch.Tensor]) -> dict:
    """Writes one rank's file; gives its entry in the manifest and, as `held`, which values of each parameter it has.
    Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{rank:05d}.safetensors"
    path.unlink(missing_ok=True)
    names = sorted(tensors, key=lambda name: name == RNG)  # bytes behind numbers
    forms = {name: (tensors[name].dtype, tuple(tensors[name].shape)) for name in names}
    digest = write_mixed(path, forms, tensors.__getitem__)
    held: dict[str, list[tuple[int, int]]] = {}
    for name, tensor in tensors.items():
        if name.startswith("master:"):
            _, parameter, start, stop = place_of(name, list(tensor.shape), "F32")
            held.setdefault(parameter, []).append((start, stop))
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest, "held": held}


class CheckpointReader:
    """The pieces of a verified checkpoint, joined and cut as the reading rank needs them: of its files those are opened
    that hold what is asked for, and each is held against what the manifest says is in it.

    `content` is what `manifest_of` gave, `kinds` what that says there is. Raises Damaged where files and manifest do
    not make a whole. A manifest of format 1 does not say what is where, so of that all files are opened.

    The `keep` files that were read last stay open: whoever reads thousands of pieces would else open each file as
    often, on a server that a thousand ranks ask.
    """

    def __init__(self, checkpoint: Path, content: dict, keep: int = 0):
        self.checkpoint, self.entries = checkpoint, content["files"]
        self.kinds = (*KINDS, EMA) if EMA in content else KINDS
        self.opened: dict[int, TensorFile] = {}
        """By the file's number."""
        self.keep, self.kept = keep, dict[int, Opened]()
        stretches = content["stretches"] if content["format"] not in OLDER else self._found()
        self.stretches = {name: (numbers[::2], numbers[1::2]) for name, numbers in stretches.items()}
        """Of each parameter the files that hold it, end to end, and where what each holds ends."""

    @property
    def names(self) -> list[str]:
        """Of the parameters."""
        return list(self.stretches)

    def length(self, name: str) -> tuple[int]:
        """The shape of a flattened parameter."""
        _, ends = self.stretches[name]
        return (ends[-1],)

    def fill(self, piece: Piece) -> None:
        """Writes the piece's values into its tensors, of the kinds that there are."""
        for kind in piece.tensors.keys() & set(self.kinds):
            self.read(kind, piece.name, piece.start, piece.tensors[kind])

    def read(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Writes values of a flattened parameter, from `start` on, into out (length,) of any type."""
        end_of_out = start + len(out)
        for file, begin, end in self.where(name, start, end_of_out):
            key = f"{kind}:{name}:{begin}"
            here, until = max(begin, start), min(end, end_of_out)
            opened = self.file(file)
            if key not in opened.tensors:
                raise Damaged(f"{opened.path.name} has no {shown(key)}, which {MANIFEST} says is there")
            try:
                self._keep_open(file)
                opened.read(key, here - begin, out[here - start : until - start])
            except OSError as error:
                raise Damaged(f"{opened.path.name} cannot be read ({error.strerror})") from error

    def _keep_open(self, number: int) -> None:
        if self.keep:
            held = self.kept.pop(number) if number in self.kept else self.opened[number].opened()
            self.kept[number] = held  # behind the others: the first is the one that was asked for longest ago
            if len(self.kept) > self.keep:
                self.kept.pop(next(iter(self.kept)))

    def where(self, name: str, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(file, start, stop) of each stretch that holds any of the values `start` to `stop`. Raises Damaged where not
        all are there."""
        files, ends = self.stretches.get(name, ((), ()))
        if not ends or not 0 <= start <= stop <= ends[-1]:
            raise Damaged(f"{name} has {ends[-1] if ends else 0:,} values; {start:,} to {stop:,} are asked for")
        for number in range(bisect.bisect_right(ends, start), len(ends)):
            begin = ends[number - 1] if number else 0
            if begin >= stop:
                break
            yield files[number], begin, ends[number]

    def file(self, number: int) -> TensorFile:
        """One of its files, opened when it is first asked for, and then held against the manifest. Raises Damaged."""
        if number not in self.opened:
            file, told = self._open(number)
            for kind, name, start, stop in told:
                files, ends = self.stretches.get(name, ((), ()))
                place = bisect.bisect_right(ends, start)
                begin = ends[place - 1] if place else 0
                if place == len(ends) or (files[place], begin, ends[place]) != (number, start, stop):
                    raise Damaged(
                        f"{file.path.name} holds values {start} to {stop} of {kind} of {shown(name)}, which {MANIFEST} "
                        "does not say"
                    )
            self.opened[number] = file
        return self.opened[number]

    def _open(self, number: int) -> tuple[TensorFile, list[tuple[str, str, int, int]]]:
        """A file and what `place_of` says of each of its pieces."""
        name = self.entries[number]["name"]
        try:
            file = TensorFile(self.checkpoint / name)
            places = [
                place_of(key, list(placed.shape), placed.dtype, self.kinds)
                for key, placed in file.tensors.items()
                if key != RNG
            ]
        except (OSError, SafetensorError, ValueError) as error:
            raise Damaged(f"{name} cannot be read ({error})") from error
        return file, places

    def _found(self) -> dict[str, list[int]]:
        """What a manifest of format 2 says, found in all files."""
        of_kind: dict[str, list[dict[str, list[tuple[int, int]]]]] = {kind: [] for kind in KINDS}
        for number in range(len(self.entries)):
            self.opened[number], places = self._open(number)
            for held in of_kind.values():
                held.append({})
            for kind, name, start, stop in places:
                of_kind[kind][-1].setdefault(name, []).append((start, stop))
        try:
            require_cover(of_kind)
            return stretches_of(of_kind["master"])
        except ValueError as error:
            raise Damaged(f"its files do not make a whole: {error}") from error

    def rng(self, rank: int) -> torch.Tensor:
        """The random generators of `rank`, or of another where there were fewer."""
        file = self.file(rank % len(self.entries))
        if (placed := file.tensors.get(RNG)) is None:
            raise Damaged(f"{file.path.name} has no {RNG}")
        if placed.dtype != "U8" or len(placed.shape) != 1:
            raise Damaged(f"{RNG} is of type {placed.dtype} and shape {list(placed.shape)}, expected bytes")
        return file.tensor(RNG, torch.uint8)


def place_of(key: str, shape: list[int], dtype: str, kinds: Sequence[str] = KINDS) -> tuple[str, str, int, int]:
    """(kind, parameter, start, stop) of a tensor in a file. Raises ValueError for one that is no piece of `kinds`."""
    kind, name, start = key.split(":") if key.count(":") == 2 else ("", "", "")
    if kind not in kinds or not name or not re.fullmatch(r"0|[1-9]\d{0,17}", start, re.ASCII):
        raise ValueError(f"it holds a tensor {shown(key)}, expected KIND:PARAMETER:START")
    if dtype != "F32" or len(shape) != 1:
        raise ValueError(f"{shown(key)} is of type {dtype} and shape {shape}, expected F32 in one dimension")
    return kind, name, int(start), int(start) + shape[0]


def require_cover(of_kind: Mapping[str, Sequence[Mapping[str, Sequence[tuple[int, int]]]]]) -> None:
    """Raises ValueError unless, of each parameter and kind, the pieces lie end to end from 0 on, and all kinds are cut
    alike. `of_kind`: by kind, of each file what (start, stop) it has of each parameter."""
    joined = {}
    for kind, held in of_kind.items():
        try:
            joined[kind] = stretches_of(held)
        except ValueError as error:
            raise ValueError(f"{kind}: {error}") from error
    for name in dict.fromkeys(name for stretches in joined.values() for name in stretches):
        kinds = [kind for kind in KINDS if name in joined[kind]]
        ends = sorted({joined[kind][name][-1] for kind in kinds})
        if len(kinds) < len(KINDS) or len(ends) > 1:
            raise ValueError(f"{name} has {', '.join(kinds)} of {' and '.join(map(str, ends))} values")
        if any(joined[kind][name] != joined[kinds[0]][name] for kind in kinds):
            raise ValueError(f"{name} is cut otherwise in {kinds[0]} than in {' and '.join(kinds[1:])}")
