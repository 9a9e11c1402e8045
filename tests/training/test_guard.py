"""The guard's judgement of losses and norms, number by number."""

import dataclasses
import math
import re

import pytest
import torch

from mfa_train import config as configs
from mfa_train.errors import TrainingError
from mfa_train.training.processes.ranks import join
from mfa_train.training.steps.guard import Guard, Poisoned
from mfa_train.training.steps.losses import Losses
from mfa_train.training.steps.state import Progress, TrainingState

CONFIG = dataclasses.replace(configs.load([]).guard, spike_window=10, max_skips=2)


def after(numbers, **changed) -> tuple[Guard, list[str]]:
    """A guard that has seen `numbers` as losses, the norm always about 1."""
    said: list[str] = []
    guard = Guard(dataclasses.replace(CONFIG, **changed), said.append)
    for step, loss in enumerate(numbers, 1):
        guard.look_at(step, loss, 1.0 + 0.001 * step)
    return guard, said


def test_a_spike_stands_out_from_the_median_by_so_many_sigmas_and_does_not_raise_its_own_bound():
    """Of losses 4.9, 5.0, 5.1, … the median absolute deviation is 0.1, sigma 0.148, the bound 5 + 6 · 0.148 = 5.89."""
    steady = [4.9, 5.0, 5.1] * 4
    guard, said = after([*steady, 5.8])
    assert guard.spikes == 0 and not said
    guard, said = after([*steady, 6.0, 6.0])
    assert guard.spikes == 2 and said[0].startswith("step 13: spike, loss 6 above 5.")


def test_nothing_is_a_spike_before_half_a_window_was_seen():
    assert after([5.0, 5.1, 4.9, 5.0, 50.0])[0].spikes == 0
    assert after([5.0, 5.1, 4.9, 5.0, 5.0, 50.0])[0].spikes == 1


def test_a_spike_is_left_out_where_that_is_asked_for():
    guard, _ = after([5.0, 5.1, 4.9] * 3, spikes="skip")
    assert guard.applies(1.0, 5.0) and not guard.applies(1.0, 50.0) and not guard.applies(50.0, 5.0)
    assert after([5.0, 5.1, 4.9] * 3)[0].applies(50.0)


def test_an_update_that_is_not_finite_is_never_applied_and_one_too_many_is_poison():
    guard, said = after([5.0] * 8, nonfinite="skip")
    for step in (9, 10):
        guard.begin()
        assert not guard.applies(math.inf)
        guard.end(step, math.inf, "samples 8 to 9")
    assert said[-1] == "step 10 skipped, 2 so far (the gradient's norm is inf; samples 8 to 9)"
    again = Guard(guard.config, said.append, guard.state())  # as a resumed run has it
    again.begin()
    with pytest.raises(Poisoned, match="3 steps in a row, up to step 11"):
        again.end(11, math.inf, "samples 10 to 11")


LOSS, NORM = "the loss is nan at step 1 on rank 0 (samples 0 to 7), ", "the gradient's norm is inf at step 1, "


@pytest.mark.parametrize(
    "loss, norm, spikes, told",
    [
        (math.nan, math.inf, "log", LOSS + "and the gradient's norm is inf; the update was not made."),
        (math.nan, 1.5, "log", LOSS + "while the gradient's norm is 1.5; the update was made."),
        (math.nan, 1.5, "skip", LOSS + "while the gradient's norm is 1.5; the update was not made."),
        (2.0, math.inf, "log", NORM + "while every rank's loss was finite (samples 0 to 7); the update was not made."),
    ],
)
def test_whether_loss_or_norm_was_not_finite_is_told_and_whether_the_update_was_made(loss, norm, spikes, told):
    guard = Guard(dataclasses.replace(CONFIG, spikes=spikes), print)
    losses = Losses(join(), TrainingState(Progress(), guard))
    guard.begin()
    losses.add(torch.tensor(loss))
    guard.applies(norm, losses.upcoming)
    with pytest.raises(TrainingError, match=re.escape(told)):
        losses.end_step(1, norm, "samples 0 to 7")
        losses.read()


def test_a_loss_that_is_not_finite_is_told_after_the_update_or_left_out_where_losses_are_known_before_it():
    guard, said = after([5.0] * 8, nonfinite="skip")
    guard.look_at(9, math.nan, 1.0)
    assert said == ["step 9: the loss is nan, while the gradient's norm is finite: the update was made"]
    guard, said = after([5.0] * 8, nonfinite="skip", spikes="skip")
    guard.begin()
    assert not guard.applies(1.0, math.nan)
    guard.look_at(9, math.nan, 1.0)
    guard.end(9, 1.0, "samples 0 to 7")
    assert said == ["step 9 skipped, 1 so far (the loss is nan, while the gradient's norm is finite; samples 0 to 7)"]
