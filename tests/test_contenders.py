"""Benchmarks: a contender that dies says why, and nobody waits for it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def counts() -> Iterator[int]:
    yield from (1, 2)


def lacks_a_package() -> Iterator[int]:
    yield 1
    raise ModuleNotFoundError("No module named 'catalogue'")


def is_killed() -> Iterator[int]:
    yield 1
    os._exit(9)


@pytest.mark.parametrize(
    "figures, second, failure",
    [
        (counts, 2, None),
        (lacks_a_package, None, "ModuleNotFoundError: No module named 'catalogue'"),
        (is_killed, None, "its process ended with 9"),
    ],
)
def test_a_contender_that_dies_says_why(figures, second, failure, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from contenders import Contender

    contender = Contender(figures)
    assert [contender.turn(), contender.turn(), contender.failure] == [1, second, failure]
    contender.end()
