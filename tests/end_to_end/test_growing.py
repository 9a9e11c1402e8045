"""Runs at growing lengths: real commands."""

import json
import os
import re
import signal
import time

from benchmarks.kills import curve, newest
from tests.end_to_end.conftest import COMMON, metrics
from tests.end_to_end.test_guard import POISONED

STEPS, CHANGE = 60, 40
GROWING = (
    f"training.sequence_schedule=[{{from_tokens: 0, sequence_length: 16, rope_theta: 500}}, "
    f"{{from_tokens: {CHANGE * 8 * 64 - 1}, sequence_length: 64}}]"
)
RUN = [*COMMON, f"training.steps={STEPS}", f"checkpoint.at_steps=[{CHANGE}]", "training.eval_every=20", GROWING]


def test_a_run_killed_before_its_length_changes_leaves_the_undisturbed_curve_bit_for_bit(train, begin, tmp_path):
    done = train(*RUN, "name=whole")
    assert done.returncode == 0, done.stderr
    assert f"sequences of 64 tokens from step {CHANGE + 1} on, behind {CHANGE * 8 * 64:,} tokens" in done.stdout
    killed = begin(*RUN, name="killed")
    while not newest(tmp_path / "killed"):
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert newest(tmp_path / "killed") < CHANGE
    done = train(*RUN, "name=killed")
    assert done.returncode == 0, done.stderr
    whole = curve(tmp_path / "whole")
    assert curve(tmp_path / "killed") == whole
    assert all(record["data/sequence_length"] == (16 if record["step"] <= CHANGE else 64) for record in whole)
    plan, summary = (json.loads((tmp_path / "whole" / f"{name}.json").read_text()) for name in ("plan", "summary"))
    assert plan["flops"]["train_total"] == summary["flops"] < plan["flops"]["train_per_token"] * summary["tokens"]
    assert any(f"64 from step {CHANGE + 1} ({CHANGE * 8 * 64:,} tokens: " in note for note in plan["notes"])

    refused = train(*RUN[:-1], "name=whole", "resume=must", f"training.steps={STEPS + 1}")
    assert refused.returncode == 2 and "training.sequence_schedule: [" in refused.stderr

    # A checkpoint amid the schedule is of that stage's length and rotations: four of its sequences are a window.
    start = f"init_from={tmp_path}/whole/checkpoints/step-{CHANGE:08d}"
    short = ["training.steps=1", "schedule.warmup_steps=0", "training.sequence_length=16", "training.eval_sequences=20"]
    done = train(*COMMON, *short, "name=short", "attention.rope_theta=500", start)
    assert done.returncode == 0, done.stderr
    there = next(record["val/loss"] for record in whole if record["step"] == CHANGE)
    assert float(re.search(r"held-out loss before the first step (\S+)", done.stdout)[1]) == round(there, 4)
    done = train(*COMMON, *short[:2], "name=long", start)
    assert "init_from: attention.rope_theta is 10000.0 here and 500.0 there" in done.stdout


def test_a_schedule_of_one_stage_is_the_run_without_one_bit_for_bit(train, tmp_path):
    one = "training.sequence_schedule=[{from_tokens: 0, sequence_length: 64}]"
    for name, overrides in (("plain", []), ("one", [one])):
        assert train(f"name={name}", *overrides).returncode == 0
    plain, found = curve(tmp_path / "plain"), curve(tmp_path / "one")
    assert [record | {"data/sequence_length": 64} for record in plain] == found


def test_a_run_that_goes_back_over_a_change_of_length_makes_it_again(train, tmp_path):
    """Steps 9 to 12 are NaN and skipped; the run goes back to step 8. From step 11 on sequences are longer."""
    schedule = f"training.sequence_schedule=[{{from_tokens: 0, sequence_length: 32}}, {{from_tokens: {10 * 8 * 64}, "
    done = train(
        *("name=run", "guard.nonfinite=skip", "guard.max_skips=3", "checkpoint.every_steps=4", "zero=0"),
        f"{schedule}sequence_length: 64}}]",
        python=(POISONED, "0", "9", "12", "nan"),
    )
    assert done.returncode == 0, done.stderr
    assert "back to step 8" in done.stdout and done.stdout.count("sequences of 64 tokens from step 11 on") == 2
    lengths = [record["data/sequence_length"] for record in metrics(tmp_path / "run")]
    assert lengths == [32] * 10 + [64] * 10
