from mfa_train.training.steps.losses import _mean


def test_the_mean_of_finite_losses_is_finite():
    assert _mean([1e308] * 3) == 1e308 and _mean([2.0, 4.0]) == 3.0
