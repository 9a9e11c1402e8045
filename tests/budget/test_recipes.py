"""The versioned recipes, experiment=125m … 70b: each fits the devices that it names, and is long enough."""

import pytest

from mfa_train import config as configs
from mfa_train.budget.plan import make_plan
from mfa_train.training.before_start import checks_before_plan

DEVICES = {"125m": 8, "350m": 8, "1b": 8, "3b": 32, "7b": 64, "13b": 128, "70b": 512}


@pytest.mark.parametrize("attention", ["mfa", "mha"])
@pytest.mark.parametrize("size", DEVICES)
def test_a_recipe_fits_its_devices_and_reads_twenty_tokens_a_parameter(size, attention):
    config = configs.load([f"experiment={size}", f"attention={attention}"])
    for check in checks_before_plan(config):
        check()
    plan = make_plan(config)
    memory, length = plan["memory"], plan["length"]
    assert config.model.name == size and memory["world_size"] == DEVICES[size] and memory["device"] == "h100-80gb"
    assert memory["fits"], memory["change"]
    assert length["tokens_per_parameter"] >= 20
    assert 2**19 <= length["tokens_per_step"] <= 2**22
    assert length["warmup_steps"] <= length["steps"] / 5
    assert length["last_learning_rate"] == pytest.approx(config.model.learning_rate / 10, rel=1e-3)
    shared = config.training.eval_sequences % (DEVICES[size] * config.training.micro_batch(DEVICES[size]))
    assert shared == 0
