"""p values of several questions at once (Holm 1979)."""

from collections.abc import Hashable
from typing import TypeVar

Question = TypeVar("Question", bound=Hashable)


def corrected(p: dict[Question, float]) -> dict[Question, float]:
    """Each p times the number of those no smaller, and no less than the one before it; at most 1."""
    found: dict[Question, float] = {}
    lowest = 0.0
    for rank, (question, value) in enumerate(sorted(p.items(), key=lambda one: one[1])):
        lowest = max(lowest, min(1.0, (len(p) - rank) * value))
        found[question] = lowest
    return found
