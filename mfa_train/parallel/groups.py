"""Which ranks stand together where `parallel.experts` = E ranks share a layer's experts out, and where
`parallel.context` = C ranks share sequences.

    expert groups      E consecutive ranks, on one node as far as E fits into one: together they have all experts,
                       and send each other tokens
    same experts       every E-th rank: they have the same experts, whose gradients they sum
    context groups     C consecutive ranks: each has its stretches of the same sequences, and they send each other what
                       attention needs to know of a token

With four ranks and E = 2 the expert groups are (0, 1) and (2, 3); ranks 0 and 2 have the same experts, 1 and 3 too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _at_once(waiting: Callable[[], None]) -> None:
    waiting()


@dataclass(eq=False)
class Group:
    """Ranks that stand together, as one of them sees it; by default one alone."""

    rank: int = 0
    """Of this one among them, from 0."""
    size: int = 1
    handle: Any = None
    """What they send each other something in."""
    waits: Callable[[Callable[[], None]], None] = _at_once
    """What calls that in which this rank waits for the others."""


@dataclass(eq=False)
class ContextGroup(Group):
    """The ranks that share sequences."""

    by: str = "entries"
    """What they send each other: entries | heads."""


class ExpertGroup(Group):
    """The ranks that share experts out."""

    def first_of(self, experts: int) -> int:
        """The first expert of `experts`, all of a layer, that this rank has."""
        return self.rank * (experts // self.size)


ALONE = ExpertGroup()
WHOLE_SEQUENCES = ContextGroup()


def consecutive(world_size: int, size: int) -> list[list[int]]:
    """The ranks of each group of `size` of them: expert groups, in the order in which they have the experts, and
    context groups."""
    return [list(range(first, first + size)) for first in range(0, world_size, size)]


def same_experts(world_size: int, experts: int) -> list[list[int]]:
    """The ranks that have the same experts, those of the first place in an expert group first."""
    return [list(range(place, world_size, experts)) for place in range(experts)]
