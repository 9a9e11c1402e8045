"""How many seeds a verdict takes is what the verdicts themselves then say."""

import numpy as np
import pytest

from mfa_train.scaling.verdicts.enough import LEAST_SEEDS, POWER, power, seeds_for, smallest_shown, told_before
from mfa_train.scaling.verdicts.paired import summary


def test_the_smallest_difference_that_is_shown_is_that_at_which_p_passes():
    values = np.array([-1.0, 0.3, 0.1, 0.6])
    values = (values - values.mean()) / values.std(ddof=1)
    for pairs in (1, 55):
        least = smallest_shown(len(values), pairs)
        assert summary(values + least * 1.001)["p_t"] * pairs < 0.05 < summary(values + least * 0.999)["p_t"] * pairs


def test_as_many_seeds_as_are_asked_for_show_the_difference_four_times_in_five():
    draw, sizes, pairs = np.random.default_rng(0), 3, 6
    seeds = seeds_for(0.02, 0.02, sizes, pairs)
    found = [summary(draw.normal(0.02, 0.02, seeds * sizes))["p_t"] * pairs < 0.05 for _ in range(300)]
    assert np.mean(found) == pytest.approx(power(0.02, 0.02, seeds * sizes, pairs), abs=0.06)
    assert power(0.02, 0.02, (seeds - 1) * sizes, pairs) < POWER


def test_no_number_of_seeds_finds_what_is_not_there_and_a_huge_difference_takes_two():
    assert seeds_for(1e-5, 0.02, 3, 3) is None
    assert seeds_for(50.0, 0.02, 3, 3) == LEAST_SEEDS and seeds_for(0.01, 0.0, 1) == LEAST_SEEDS


def test_before_training_one_seed_is_told_to_bring_no_verdict_and_what_would():
    first, second = told_before(variants=3, sizes=1, seeds=1)
    assert first.startswith("one seed brings no verdict")
    assert second.startswith("6 seeds show a difference of 2 times its spread from seed to seed, four times in five")
    assert second.endswith("(3 pairs of 3 variants, for which p is corrected)")
    (only,) = told_before(variants=2, sizes=3, seeds=6)
    assert only.startswith("6 seeds at 3 sizes show differences above 0.5 times their spread")
    assert told_before(variants=1, sizes=3, seeds=1) == []
