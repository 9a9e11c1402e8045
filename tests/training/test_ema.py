"""The exponential moving average of the weights: kept, saved, looked at, and given to others."""

import os
import subprocess
import sys

import pytest

from mfa_train import config as configs
from mfa_train.budget.plan import make_plan
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


@pytest.mark.parametrize(
    "zero, offload, device, share",
    [(0, "none", "h100-80gb", 1), (3, "parameters", "h100-80gb", 4), (1, "none", "cpu", 4)],
)
def test_the_plan_counts_four_bytes_a_parameter_in_memory_copy_and_checkpoint(zero, offload, device, share):
    typed = [f"zero={zero}", f"offload={offload}", f"cluster.device={device}", "cluster.devices_per_node=4"]
    with_it, without = (make_plan(configs.load([*SMALL, *typed, f"training.ema={ema}"])) for ema in ("0.999", "null"))
    params, (memory, before) = with_it["params"]["total"], (with_it["memory"], without["memory"])
    more = -(-params // share) * 4
    assert memory["optimizer"] - before["optimizer"] == more
    assert memory["offloaded"] - before["offloaded"] == (more if offload != "none" else 0)
    if device == "cpu":
        assert memory["checkpoint_copy"] - before["checkpoint_copy"] == more
        assert memory["total"] - before["total"] == 2 * more  # beside the masters, and in the copy
    else:
        assert 3 * memory["checkpoint_copy"] == 4 * before["checkpoint_copy"]
        assert memory["total"] - before["total"] == (0 if offload != "none" else more)
    assert with_it["disk"]["checkpoint_bytes"] - without["disk"]["checkpoint_bytes"] == 4 * params
    assert with_it["disk"]["final_weights_bytes"] == 2 * without["disk"]["final_weights_bytes"]


@pytest.mark.parametrize("decay", ["0", "1", "-0.5", "1.5"])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ConfigError, match="training.ema=.*: expected a number between 0 and 1, as training.ema=0.999"):
        configs.load([*SMALL, f"training.ema={decay}"])
