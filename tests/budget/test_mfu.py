"""A run's share of a peak, as a plan takes it, and the peak itself."""

import json
import math
import threading
import time

import pytest
import torch

from mfa_train.budget import peak as peaks
from mfa_train.budget.devices import KNOWN, Device
from mfa_train.budget.mfu import typed_or_measured
from mfa_train.budget.peak import Peak, measured_flops
from mfa_train.errors import ConfigError

CPU = Device("cpu", "cpu", 2**34, None)
H100 = next(device for device in KNOWN if device.name == "h100-80gb")


def run_of(folder, *shares, device: str | None = "cpu", from_step: int | None = None, precision: str = "fp32"):
    """A run that logged these, every ten steps and at the first."""
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": 10 * number or 1, "mfu": share}) + "\n" for number, share in enumerate(shares))
    )
    if device:
        (folder / "plan.json").write_text(json.dumps({"memory": {"device": device}, "time": {"precision": precision}}))
    if from_step is not None:
        (folder / "starts.jsonl").write_text(json.dumps({"from_step": from_step}) + "\n")
    return str(folder)


def test_the_median_behind_the_first_step_is_taken_and_told_with_its_device(tmp_path):
    share, source = typed_or_measured(run_of(tmp_path, 0.01, 0.4, 0.5, 0.3), CPU)
    assert share == 0.4 and source.endswith("metrics.jsonl, measured on cpu in fp32")


def test_what_is_no_share_is_left_out(tmp_path):
    odd = [7.5, None, math.nan, "0.9", -0.3, 0, True, [1]]
    assert typed_or_measured(run_of(tmp_path, 0.01, *odd, *[0.4] * 12), CPU)[0] == 0.4


@pytest.mark.parametrize("shares", [[7.5, 7.4, 7.6], [0.9, 1.1, 0.95, 1.2], [7.5]])
def test_a_run_whose_peak_was_measured_wrong_is_refused(shares, tmp_path):
    with pytest.raises(ConfigError, match="the peak of that run's device was measured wrong; type plan.mfu=0.5"):
        typed_or_measured(run_of(tmp_path, *shares), CPU)


@pytest.mark.parametrize(
    "measured_on, planned, told",
    [
        ("cpu", H100, "measured on cpu in fp32, and the plan is for h100-80gb: .*; type plan.mfu=0.4, or a run"),
        ("h100-80gb", CPU, "measured on h100-80gb in fp32, and the plan is for cpu"),
        (None, H100, "plan.json does not say on which device it was measured, and the plan is for h100-80gb"),
    ],
)
def test_a_share_is_taken_for_the_same_kind_of_device_alone(measured_on, planned, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        typed_or_measured(run_of(tmp_path, 0.1, 0.4, device=measured_on), planned)
    a100 = run_of(tmp_path, 0.1, 0.4, device="a100-80gb")
    assert typed_or_measured(a100, H100)[1].endswith("measured on a100-80gb in fp32")


def test_records_of_an_earlier_start_are_not_taken_for_the_last_ones_device(tmp_path):
    run = run_of(tmp_path, 0.1, 0.2, 0.2, 0.7, 0.6, device="h100-80gb", from_step=20)
    assert typed_or_measured(run, H100)[0] == 0.6
    with pytest.raises(ConfigError, match="its last start logged no mfu"):
        typed_or_measured(run_of(tmp_path, 0.1, 0.2, device="h100-80gb", from_step=10), H100)


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"[]\n3\n", b'{"step": 10}\n', b'{"step": 10, "mfu": {}}\n'])
def test_a_run_without_measurements_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ConfigError, match="logged no mfu; type plan.mfu=0.5, or a run folder"):
        typed_or_measured(str(tmp_path), CPU)


def test_a_cpu_on_which_others_take_turns_is_not_measured_a_hundred_times_too_slow():
    """Two threads that wait for each other, while others want their cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    undisturbed = max(measured_flops(torch.float32) for _ in range(3))
    stop = threading.Event()

    def busy() -> None:
        a = torch.ones(256, 256)
        while not stop.is_set():
            a @ a

    others = [threading.Thread(target=busy, daemon=True) for _ in range(4)]
    try:
        for other in others:
            other.start()
        time.sleep(0.05)
        assert max(measured_flops(torch.float32) for _ in range(3)) > undisturbed / 20
    finally:
        stop.set()
        for other in others:
            other.join()
        torch.set_num_threads(threads)


def test_measuring_draws_no_random_number_and_leaves_the_threads_alone():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    measured_flops(torch.float32, 0.01)
    assert torch.equal(before, torch.get_rng_state()) and threads == torch.get_num_threads()


def test_no_share_above_one_is_logged_and_a_peak_below_the_runs_speed_is_told_once(monkeypatch):
    measured, said = iter([1e9, 1e9, 1.5e9, 4e9, 2e9]), []
    monkeypatch.setattr(peaks, "measured_flops", lambda dtype: next(measured))
    monkeypatch.setattr(peaks, "_bursts", {})
    peak = Peak(CPU, torch.float32, said.append)
    # The peak was exceeded, so what looks like a share of it is none; then a higher one is found.
    assert [peak.share(2e9), peak.share(1e9), peak.share(2e9), peak.share(3e9)] == [None, None, 0.5, 0.75]
    assert len(said) == 1 and "mfu is left out: the run does 2 GFLOP/s on each cpu, more than its peak of 1," in said[0]


def test_the_share_of_a_gpu_is_of_its_vendors_peak_and_of_an_unknown_one_null():
    said = []
    assert Peak(H100, torch.bfloat16, said.append).share(989e12 / 4) == 0.25
    assert Peak(H100, torch.float32, said.append).share(1e12) is None
    assert Peak(H100, torch.bfloat16, said.append).share(2e15) is None and len(said) == 1
