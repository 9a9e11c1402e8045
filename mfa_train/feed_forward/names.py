"""A layer's experts are one tensor for each of their matrices here, and one tensor an expert on disk, as Hugging Face
names them: `experts.gate_proj.weight` (experts, out, in) is `experts.N.gate_proj.weight` (out, in) for each N, end to
end.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

STACKED = re.compile(r"(?P<layer>.*\.experts\.)(?P<matrix>\w+\.weight)")
OF_ONE = re.compile(r"(?P<layer>.*\.experts\.)(?P<expert>0|[1-9]\d{0,5})\.(?P<matrix>\w+\.weight)", re.ASCII)
ALWAYS_FLOAT32 = "e_score_correction_bias"
"""It decides between scores that differ by less than bfloat16 says."""


class Stretch(NamedTuple):
    """Where values of a weight lie in a flattened parameter."""

    parameter: str
    start: int


def held_in(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type of the weight of this `name` on disk, in the model's or on disk, where others are held in `dtype`."""
    return torch.float32 if name.endswith(ALWAYS_FLOAT32) else dtype


def on_disk(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The names and shapes on disk of parameters of these `shapes`."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if stacked := STACKED.fullmatch(name):
            each = {f"{stacked['layer']}{expert}.{stacked['matrix']}": shape[1:] for expert in range(shape[0])}
            found |= each
        else:
            found[name] = shape
    return found


def in_model(name: str, shape: tuple[int, ...]) -> Stretch:
    """Where the weight on disk of this `name` and `shape` lies in the model's parameters."""
    if of_one := OF_ONE.fullmatch(name):
        return Stretch(of_one["layer"] + of_one["matrix"], int(of_one["expert"]) * math.prod(shape))
    return Stretch(name, 0)


def stretches(name: str, shape: tuple[int, ...], start: int, length: int) -> Iterator[tuple[str, int, int]]:
    """`length` values from `start` on of the flattened parameter `name` of this `shape`, by the weights on disk that
    hold them: (name on disk, where in it, how many)."""
    if not (stacked := STACKED.fullmatch(name)):
        yield name, start, length
        return
    size, end = math.prod(shape[1:]), start + length
    while start < end:
        expert, place = divmod(start, size)
        here = min(size - place, end - start)
        yield f"{stacked['layer']}{expert}.{stacked['matrix']}", place, here
        start += here
