"""Which stretch of a whole parameter a rank's model has.

Experts are one tensor for each of their matrices, (experts, …), of which a rank has consecutive ones. Every other
parameter is whole in each rank's model (what ZeRO makes of it then is another matter). What a parameter of a rank is a
stretch of stands in an attribute of it, which is there before ZeRO 3 shares the parameter out.
"""

import math
from typing import NamedTuple

from torch import Tensor

STRETCH = "stretch_of_experts"


class Stretch(NamedTuple):
    """Of experts."""

    first: int
    """The first of them."""
    experts: int
    """How many the whole has."""
    ranks: int
    """How many ranks share them out."""


def share_out(parameter: Tensor, first: int, experts: int) -> None:
    """Says that `parameter` (experts of this rank, …) is a stretch of `experts` from `first` on."""
    if parameter.shape[0] < experts:
        setattr(parameter, STRETCH, Stretch(first, experts, experts // parameter.shape[0]))


def stretch_of(parameter: Tensor) -> Stretch | None:
    """None for a parameter that is whole."""
    return getattr(parameter, STRETCH, None)


def local_shape(parameter: Tensor) -> tuple[int, ...]:
    """Of what this rank's model has, whatever ZeRO has made of it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    shape, stretch = local_shape(parameter), stretch_of(parameter)
    return shape if stretch is None else (stretch.experts, *shape[1:])


def first_value(parameter: Tensor) -> int:
    """Where what this rank's model has begins in the whole parameter, flattened."""
    stretch = stretch_of(parameter)
    return 0 if stretch is None else stretch.first * math.prod(local_shape(parameter)[1:])
