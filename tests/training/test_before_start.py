"""What is known to fail before the first step."""

import pytest
import torch

from mfa_train import config as configs
from mfa_train.budget.devices import Device
from mfa_train.budget.plan import make_plan
from mfa_train.errors import ConfigError
from mfa_train.training.before_start import _require_sample, of_another_kind


def test_a_closing_sample_whose_cache_has_no_room_is_refused_before_the_training():
    config = configs.load(["attention=mha", "sample.max_new_tokens=1000"])
    plan = make_plan(config)
    _require_sample(config, plan, torch.float32)
    of_token = 2 * plan["kv_cache"]["bytes_per_token"]  # which counts two bytes a value
    plan["memory"]["usable"] = plan["memory"]["total"] - plan["memory"]["activations"] + 500 * of_token
    with pytest.raises(ConfigError, match="sample.max_new_tokens=1000: .* type sample.max_new_tokens=495"):
        _require_sample(config, plan, torch.float32)


def test_a_run_without_a_launcher_says_that_it_trains_on_another_kind_of_device_than_is_named():
    cpu = Device("cpu", "cpu", 2**30, None)
    assert of_another_kind(configs.load(["cluster.device=cpu"]), cpu) is None
    told = of_another_kind(configs.load(["cluster.device=h100-80gb"]), cpu)
    assert told and told.startswith("cluster.device=h100-80gb names") and told.endswith("this run trains on the CPU")
