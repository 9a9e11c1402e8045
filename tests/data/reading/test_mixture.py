"""Mixtures: each corpus's share is exact at every prefix, and any sample's corpus is found at once."""

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfa_train.data.reading.mixture import Mixture, Phase, phases_of
from mfa_train.errors import ConfigError

WEIGHTS = st.integers(1, 6).flatmap(
    lambda count: st.lists(st.lists(st.integers(1, 40), min_size=count, max_size=count), min_size=1, max_size=4)
)


@given(WEIGHTS, st.lists(st.integers(1, 150), min_size=3, max_size=3))
@settings(max_examples=80, deadline=None)
def test_every_prefix_is_exact_to_within_a_sample(weights, lengths):
    firsts = np.cumsum([0, *lengths])[: len(weights)].tolist()
    phases = [
        Phase(first, tuple(Fraction(part, sum(parts)) for part in parts)) for first, parts in zip(firsts, weights)
    ]
    mixture = Mixture(phases)
    corpus, number = mixture.place(np.arange(600))
    share, given = [Fraction(0)] * len(weights[0]), [0] * len(weights[0])
    for sample in range(600):
        assert mixture.given(sample).tolist() == given
        assert number[sample] == given[corpus[sample]]
        given[corpus[sample]] += 1
        phase = phases[sum(first <= sample for first in firsts) - 1]
        share = [part + weight for part, weight in zip(share, phase.weights)]
        assert all(abs(part - count) < 1 for part, count in zip(share, given))


def test_any_sample_costs_the_same_as_the_first():
    mixture = Mixture(phases_of({"a": 0.12345, "b": 0.5, "c": 0.37655}, ["a", "b", "c"], 2048))
    start = time.perf_counter()
    mixture.place(np.arange(10**15, 10**15 + 512))
    assert time.perf_counter() - start < 0.1
    assert abs(mixture.given(10**15) - 10**15 * np.array([0.12345, 0.5, 0.37655])).max() < 1


def test_a_corpus_may_stop_and_another_begin():
    phases = phases_of([{"from_tokens": 0, "a": 1}, {"from_tokens": 1000, "b": 2, "c": 1}], ["a", "b", "c"], 10)
    assert Mixture(phases).given(100).tolist() == [100, 0, 0]
    assert Mixture(phases).given(400).tolist() == [100, 200, 100]


def test_weights_beyond_five_decimals_are_rounded_and_sum_to_one():
    weights = phases_of({"a": 1.23456789, "b": 7.7654321, "c": 3.3}, ["a", "b", "c"], 10)[0].weights
    assert sum(weights) == 1
    assert all(abs(weight - exact / 12.2999999) < 1e-5 for weight, exact in zip(weights, (1.23456789, 7.7654321, 3.3)))


@pytest.mark.parametrize(
    "weights, told",
    [
        ({}, "expected a share of the tokens for each corpus"),
        ("a", "expected a share"),
        ([], "expected a share"),
        ({"a": 1, "x": 1}, "x is none of data.corpora"),
        ({"a": -1}, "data.weights.a=-1"),
        ({"a": float("nan")}, "a=nan"),
        ({"a": 0}, "all are 0"),
        ({"a": 1}, "b has none; type b: 1"),
        ({"a": 1, "b": 1e-9}, "data.weights.b=1e-09: of all weights less than one in 100,000"),
        ([{"from_tokens": float("inf"), "a": 1}], "from_tokens=inf"),
        ([{"from_tokens": float("nan"), "a": 1}], "from_tokens=nan"),
        ([{"from_tokens": True, "a": 1}], "from_tokens=True"),
        ([{"from_tokens": 0, "a": 1, "b": 1}, {"from_tokens": 10**30, "a": 1}], "at most 1e+18"),
        ({"a": 1, "b": 1, 7: 1}, "7 is none of data.corpora"),
        ({"a": 10**290, "b": 1}, "data.weights.b=1: of all"),
        ({"a": 10**5000, "b": 1}, "data.weights.a=int"),
        ({"a": True}, "data.weights.a=True"),
        ({"a": None}, "data.weights.a=None"),
        ([{"from_tokens": 5, "a": 1}], "must be 0"),
        ([{"a": 1}], "from_tokens=None"),
        (
            [{"from_tokens": 0, "a": 1}, {"from_tokens": 9, "b": 1}, {"from_tokens": 10, "a": 1}],
            "each later one's at least",
        ),
    ],
)
def test_weights_that_are_none_are_refused(weights, told):
    with pytest.raises(ConfigError, match="data.weights") as error:
        phases_of(weights, ["a", "b"], 10)
    assert told in str(error.value)
