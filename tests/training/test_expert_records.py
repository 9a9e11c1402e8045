"""What records tell of experts."""

import pytest
import torch

from mfa_train.feed_forward.balancing import dropped, tokens_of_experts, within_capacity
from mfa_train.tracking.heat_maps import MOST_BINS, with_heat_maps
from mfa_train.training.steps.expert_loads import RECORDS, DeadExperts
from mfa_train.training.steps.state import Progress


def test_the_share_of_dropped_choices_is_that_of_those_that_no_expert_takes():
    experts = torch.randint(0, 5, (3, 16, 2), generator=torch.Generator().manual_seed(1))
    load = tokens_of_experts(experts.flatten(1), 5)
    for factor in (0.3, 1.0, 1.25, 5.0):
        taken = within_capacity(experts, load, factor)
        assert dropped(load, 32, factor) == pytest.approx(1 - float(taken.double().mean()), abs=1e-6)
    assert dropped(load, 32, None) == 0


def test_experts_that_no_record_finds_with_a_token_are_told_once_and_again_when_twice_as_many_are():
    told: list[str] = []
    progress, load = Progress(), torch.ones(2, 8)

    def look(records: int) -> None:
        for _ in range(records):
            progress.step += 1
            DeadExperts([3, 4], told.append).look_at(progress, load)  # as where a run goes on after each

    load[1, 5] = 0
    look(RECORDS - 1)
    assert not told
    look(2 * RECORDS)
    (line,) = told
    assert f"step {RECORDS}: 1 of 16 experts had no token" in line and "layer 4" in line
    load[0, :2] = 0
    look(2 * RECORDS)
    assert len(told) == 2 and "3 of 16" in told[1] and "layer 3" in told[1]
    load[0] = 1
    look(1)
    assert sum(map(sum, progress.idle_experts)) == progress.idle_experts[1][5] > RECORDS  # the others begin anew


def test_wandb_is_given_a_histogram_for_each_layer_in_place_of_its_loads():
    wide = [100] * (2 * MOST_BINS) + [40]
    logged = with_heat_maps({"step": 1, "experts/load": {"0": [50, 150], "3": wide}})
    assert logged.keys() == {"step", "experts/load/layer_0", "experts/load/layer_3"}
    assert list(logged["experts/load/layer_0"].histogram) == [50, 150]
    bins = list(logged["experts/load/layer_3"].histogram)  # each of three experts, the last of two
    assert len(bins) == 342 and bins[-1] == 70
    assert with_heat_maps({"step": 1}) == {"step": 1}
