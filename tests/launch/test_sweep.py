"""Sweeps: which members there are, and how they run on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import yaml

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.launch.sweep import run_sweep
from mfa_train.launch.sweep_table import sweep_ending
from tests.conftest import ROOT, VARIANTS
from tests.launch.conftest import summary


def test_members_run_beside_each_other_failed_ones_once_more_and_finished_ones_never_again(launch, tmp_path):
    """One of them fails for what nobody could know before."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'schedule.warmup_steps=2' in sys.orig_argv:\n"
        "    print('lost', flush=True)\n"
        "    os._exit(2)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    sweep = (
        "-m",
        "attention=mfa",
        "training.steps=2",
        "schedule.warmup_steps=1,2",
        "sweep.parallel=2",
        "sweep.retries=1",
    )
    done = launch(*sweep, environment=environment)
    assert done.returncode == 1
    assert "error: 1 of the sweep's members failed: schedule.warmup_steps=2" in done.stderr
    assert "=== schedule.warmup_steps=2 (once more, 1 of 1): output in " in done.stdout
    assert done.stdout.count("schedule.warmup_steps=2: failed (exit status 2) after") == 2
    finished, failed = (tmp_path / f"mfa-nano-schedule.warmup_steps={steps}" for steps in (1, 2))
    assert "held-out bits per byte" in (finished / "logs" / "sweep.log").read_text()
    assert (failed / "logs" / "sweep.log").read_text() == "lost\nlost\n"
    assert yaml.safe_load((finished / "config.yaml").read_text())["tracking"]["group"] == "nano-warmup_steps"
    table = done.stdout.partition("\n\nmember  ")[2].splitlines()  # of the losses, though not all have one
    loss = summary(finished)["val_loss"]
    assert table[1].startswith(f"{finished.name}  ") and table[1].endswith(f"{loss:.4f}  finished")
    assert table[2].startswith(failed.name) and table[2].endswith("failed (exit status 2)")
    again = launch(*sweep, "sweep.retries=0", environment=environment)
    assert again.returncode == 1
    assert f"=== schedule.warmup_steps=1: finished before, in {finished}" in again.stdout


@pytest.mark.parametrize(
    "typed, told",
    {
        "training.steps=4": "mha seed=1: schedule.warmup_steps=50 does not fit into 4 steps",
        "training.micro_batch_size=1,3": "mha seed=1 micro_batch_size=3: training.batch_size=8 is not a multiple of",
    }.items(),
)
def test_what_a_member_is_refused_for_is_told_before_the_first_member_starts(typed, told, tmp_path):
    members = configs.members(["attention=mha,mfa", "seed=1,2", typed, f"runs_dir={tmp_path}"])
    with pytest.raises(ConfigError, match=f"^{told}"):
        run_sweep(members, ["/no/such/command"])
    assert not list(tmp_path.iterdir())


def test_a_sweep_ends_with_its_losses_best_first_of_many_the_largest_and_those_that_failed(tmp_path):
    [member] = configs.members(["attention=mfa", "model=280k", f"runs_dir={tmp_path}"])
    members = [
        replace(member, config=replace(member.config, name=f"run-{number}", model=replace(member.config.model)))
        for number in range(60)
    ]
    for number, one in enumerate(members):
        one.config.model.num_hidden_layers = 3 if number < 50 else 2
        one.config.run_dir.mkdir()
        (one.config.run_dir / "config.yaml").touch()
        found = {"kv_bytes_per_token": 192, "params": 666_096, "tokens": 8_192, "val_loss": 4 - number / 100}
        (one.config.run_dir / "summary.json").write_text(json.dumps(found))
    told = sweep_ending(members[:2], {one.config.run_dir: "finished" for one in members[:2]})
    assert told.splitlines()[1].split() == ["run-1", "mfa", "192", "666,096", "8,192", "3.9900", "finished"]
    assert told.endswith(f"mfa-train compare {tmp_path}/run-1 {tmp_path}/run-0")  # the others are not of this sweep
    states = {one.config.run_dir: "finished" for one in members}
    states[members[55].config.run_dir] = "failed (exit status 1)"
    rows = sweep_ending(members, states).splitlines()
    assert [rows[place].split()[0] for place in (1, 40, 41)] == ["run-49", "run-10", "run-55"]
    assert "and 19 more" in rows[42] and rows[-1].endswith(f"mfa-train compare {tmp_path}")


def test_ctrl_c_stops_all_members_which_save(launch, tmp_path):
    process = launch.start("-m", "attention=mha,mfa", "training.steps=100000", "sweep.parallel=2")
    runs = [tmp_path / f"{attention}-nano" for attention in ("mha", "mfa")]
    deadline = time.monotonic() + 100
    while not all((run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").stat().st_size for run in runs):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "stopped: the sweep, at attention=m" in output, output
    assert [summary(run)["status"] for run in runs] == ["stopped", "stopped"]
    assert all(list((run / "checkpoints").glob("step-????????")) for run in runs)


def test_a_sweep_that_is_killed_takes_its_members_along(tmp_path):
    """Whatever they do: here they would sleep for an hour. And no member is told to be the one run of W&B's that a
    variable names."""
    launcher = subprocess.Popen(
        [sys.executable, "tests/launch/sleeping_sweep.py", tmp_path],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "WANDB_RUN_ID": "the-one", "WANDB_RESUME": "must"},
    )
    deadline = time.monotonic() + 60

    def members() -> list[int]:
        return [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit() and path.read_text()]

    while len(members()) < 2:
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    assert not any(
        "the-one" in (tmp_path / str(member)).read_text() or "WANDB_RESUME" in (tmp_path / str(member)).read_text()
        for member in members()
    )
    launcher.kill()
    launcher.wait()
    while any(os.path.exists(f"/proc/{member}") for member in members()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_values_with_commas_and_a_ready_sweep_make_every_combination_each_with_a_folder_of_its_own():
    members = configs.members(["attention=mha,mla", "seed=1,2", "model=125m"])
    assert [member.swept for member in members] == [
        [f"attention={attention}", f"seed={seed}"] for attention in ("mha", "mla") for seed in (1, 2)
    ]
    assert [member.config.name for member in members] == [
        "mha-125m-seed=1",
        "mha-125m-seed=2",
        "mla-125m-seed=1",
        "mla-125m-seed=2",
    ]
    assert {member.config.tracking.group for member in members} == {"125m-attention+seed"}
    for member in members:  # what is handed on is the same member again
        assert configs.load(member.overrides) == member.config

    ready = configs.members(["sweep=learning_rate", "attention=mfa,mla", "model=125m,350m"])
    assert len(ready) == 2 * 2 * 5 and len({member.config.run_dir for member in ready}) == 20
    assert {member.config.optimizer.lr / member.config.model.learning_rate for member in ready} == {0.25, 0.5, 1, 2, 4}
    with pytest.raises(ConfigError, match="would both be the run runs/a"):
        configs.members(["name=a,b", "seed=1,2"])
    with pytest.raises(ConfigError, match="seed=2 stands twice"):
        configs.members(["seed=1,2,2"])


@pytest.mark.parametrize("size", ["nano", pytest.param("125m", marks=pytest.mark.long), "7b"])
@pytest.mark.parametrize("sweep", ["kv_budget", "kv_budgets"])
def test_every_member_of_a_ready_sweep_of_budgets_has_a_shape(sweep, size):
    from mfa_train.budget.match import matched

    members = configs.members([f"sweep={sweep}", f"model={size}"])
    assert sweep == "kv_budgets" or {member.label for member in members} == set(VARIANTS)
    for member in members:
        _, report = matched(member.config)
        assert abs(report["params"]["difference"]) <= 0.01


@pytest.mark.parametrize("command", [("train.py",), ("-m", "mfa_train.cli", "launch")])
def test_a_ready_sweep_without_m_is_refused(command, tmp_path):
    done = subprocess.run(
        [sys.executable, *command, "sweep=kv_budget", f"runs_dir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and "type -m as well" in done.stderr
    assert not list(tmp_path.iterdir())
