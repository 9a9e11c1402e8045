"""The learning rate over a run."""

import itertools

import pytest

from mfa_train.config import ScheduleConfig
from mfa_train.training.steps.schedule import learning_rate


def rates(name: str, total: int = 100) -> list[float]:
    config = ScheduleConfig(name=name, warmup_steps=10, min_lr_ratio=0.1, decay_fraction=0.2)
    return [learning_rate(config, 1.0, step, total) for step in range(total)]


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_it_warms_up_to_the_peak_and_ends_at_the_least(name):
    found = rates(name)
    assert found[0] == pytest.approx(0.1)
    assert found[9] == max(found) == 1.0
    assert found[-1] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(found[9:]))


def test_shapes():
    assert rates("cosine")[54] == pytest.approx(0.55, abs=0.02)  # half-way down: the mean of peak and least
    assert rates("linear")[54] == pytest.approx(0.55, abs=0.02)
    assert rates("cosine")[30] > rates("linear")[30]
    assert set(rates("wsd")[9:80]) == {1.0}
    assert rates("wsd")[89] == pytest.approx(0.55)
