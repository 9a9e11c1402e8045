"""The exponential moving average of the weights: kept, saved, looked at, and given to others."""

import os
import subprocess
import sys

import pytest

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from tests.conftest import ROOT, SMALL


def test_every_stage_averages_its_masters_as_by_hand_and_carries_the_average_to_any_other():
    subprocess.run(
        [
            sys.executable,
            *["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
            "tests/training/ema_ranks.py",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=300,
    )


@pytest.mark.parametrize("decay", ["0", "1", "-0.5", "1.5"])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ConfigError, match="training.ema=.*: expected a number between 0 and 1, as training.ema=0.999"):
        configs.load([*SMALL, f"training.ema={decay}"])
