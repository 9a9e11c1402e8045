"""The node `deepspeed`: what is given reaches DeepSpeed, and what promises rest on is refused by name."""

import dataclasses

import pytest
import torch

from mfa_train import config as configs
from mfa_train.budget.devices import Device
from mfa_train.budget.plan import make_plan
from mfa_train.config.deepspeed_schema import TYPED_INSTEAD
from mfa_train.errors import ConfigError
from mfa_train.training.processes.ranks import join
from mfa_train.training.steps.deepspeed_node import require_known
from mfa_train.training.steps.engine import deepspeed_config, import_deepspeed

ZERO = "+deepspeed.zero_optimization."


def settings(*typed: str) -> dict:
    return deepspeed_config(configs.load(list(typed)), join(), torch.float32)


def test_what_is_given_is_merged_last_and_leaves_the_rest():
    ours = settings("zero=3")
    found = settings("zero=3", f"{ZERO}zero_hpz_partition_size=8", "+deepspeed.timers.throughput.enabled=true")
    assert found["zero_optimization"] == {**ours["zero_optimization"], "zero_hpz_partition_size": 8}
    assert found["timers"] == {"throughput": {"enabled": True}}
    assert {**found, "zero_optimization": 0, "timers": 0} == {**ours, "zero_optimization": 0, "timers": 0}


@pytest.mark.parametrize("key", TYPED_INSTEAD)
def test_a_key_of_ours_is_refused_with_what_to_type_instead(key):
    with pytest.raises(ConfigError, match=f"^deepspeed.{key}") as refused:
        configs.load([f"+deepspeed.{key}=1"])
    assert TYPED_INSTEAD[key] in str(refused.value)


def test_all_that_is_set_here_is_refused_there():
    set_here = configs.flat(settings("zero=3", "offload=parameters"))
    free = {"timers.throughput.enabled"}
    assert all(any(f"{key}.".startswith(f"{mine}.") for mine in TYPED_INSTEAD) for key in set_here.keys() - free)


@pytest.mark.parametrize(
    "typed, told",
    [
        (f"{ZERO}reduce_bucket_sise=8", "no such key. Did you mean 'reduce_bucket_size'?"),
        (f"{ZERO}reduce_bucket_size=-1", "deepspeed.zero_optimization.reduce_bucket_size=-1: DeepSpeed refuses it"),
        ("+deepspeed.timers.thruput.enabled=true", "expected its key throughput"),
        ("+deepspeed.comms_logger.enable=true", "Did you mean 'enabled'?"),
    ],
)
def test_what_deepspeed_does_not_know_is_refused_before_anything_expensive(typed, told):
    with pytest.raises(ConfigError) as refused:
        require_known(configs.load([typed]), 1)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "typed, told",
    [
        (
            "zero=2 +deepspeed.prescale_gradients=true",
            "prescale_gradients=True: .* at zero=2, .*: type zero=1, or leave",
        ),
        (
            "zero=3 +deepspeed.prescale_gradients=true",
            "prescale_gradients=True: .* at zero=3, .*: type zero=1, or leave",
        ),
        ("zero=3 +deepspeed.gradient_predivide_factor=2", "gradient_predivide_factor=2: .*: type zero=1, or leave"),
        ("+deepspeed.gradient_predivide_factor=0", "gradient_predivide_factor=0: expected a number above 0"),
        ("+deepspeed.wall_clock_breakdown=7", "wall_clock_breakdown=7: expected true or false"),
        (f"zero=0 {ZERO}overlap_comm=true", "overlap_comm=True: zero=0 reads none of these: type zero=1"),
        (f"zero=2 {ZERO}zero_hpz_partition_size=2", "partition_size=2: zero=2 reads none such: type zero=3"),
        (f"zero=3 {ZERO}zero_hpz_partition_size=8", "partition_size=8: expected a number that divides .* ranks, 2,"),
        (
            f"zero=3 {ZERO}reduce_scatter=false {ZERO}zero_quantized_gradients=true",
            "only where gradients are scattered",
        ),
    ],
)
def test_what_means_nothing_to_the_run_is_refused_before_deepspeed_asserts_it(typed, told):
    with pytest.raises(ConfigError, match=f"^deepspeed.*{told}"):
        require_known(configs.load(typed.split()), 2)


def test_a_bucket_that_no_device_holds_is_refused_by_the_config():
    with pytest.raises(
        ConfigError, match=r"reduce_bucket_size=1e\+30: expected a number of elements, 1,000,000,000,000"
    ):
        configs.load([f"{ZERO}reduce_bucket_size=1e30"])


def test_what_deepspeed_knows_passes():
    typed = [
        f"{ZERO}{key}" for key in ("zero_hpz_partition_size=8", "zero_quantized_weights=true", "overlap_comm=true")
    ]
    require_known(configs.load(["zero=3", f"{ZERO}stage3_prefetch_bucket_size=1e6", *typed]), 16)
    require_known(configs.load(["zero=1", "+deepspeed.prescale_gradients=true", "+deepspeed.memory_breakdown=true"]), 2)


def test_the_plan_counts_the_bucket_that_is_given():
    device = Device("cpu", "cpu", 2**40, None)

    def total(*typed: str) -> int:
        return make_plan(configs.load(["zero=3", "precision=fp32", *typed]), device, ranks=2)["memory"]["total"]

    # Gradients of a bucket and their sum, float32.
    assert total(f"{ZERO}reduce_bucket_size=200_000_000") - total(f"{ZERO}reduce_bucket_size=100_000_000") == 8 * 10**8


def test_deepspeed_compiles_nothing_to_find_out_what_it_could_compile(monkeypatch):
    import deepspeed.ops

    monkeypatch.setattr(deepspeed.ops, "_probe_compatible_ops", lambda: pytest.fail("it compiles and links"))
    monkeypatch.delitem(vars(deepspeed.ops), "__compatible_ops__", raising=False)
    assert not import_deepspeed().ops.__compatible_ops__["deepspeed_shm_comm"]


def test_a_run_of_before_the_node_gave_nothing():
    tree = dataclasses.asdict(configs.load([]))
    del tree["deepspeed"]
    assert configs.completed(tree)["deepspeed"] == {}
