"""Traces of real runs' steps, which no number of theirs knows of."""

import gzip
import json
import signal
import subprocess
import sys

from tests.conftest import ROOT
from tests.end_to_end.conftest import metrics

POISONED = str(ROOT / "tests" / "end_to_end" / "poisoned.py")
NUMBERS = ("train/loss", "grad_norm", "val/loss", "lr", "skipped_steps")


def events(path) -> set[str]:
    return {event["name"] for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]}


def test_a_run_that_is_recorded_over_skips_and_a_rollback_is_the_same_to_the_last_bit(train, tmp_path):
    """Batches 9 to 12 are NaN, and the fourth skip in a row rolls back to step 8: within the steps that rank 1 of two
    records."""
    poisoned = [
        *("guard.nonfinite=skip", "guard.max_skips=3", "checkpoint.every_steps=4", "zero=1", "training.steps=16"),
        *("training.eval_every=16", "sample.max_new_tokens=1"),
    ]
    for name, overrides in (("plain", []), ("recorded", ["profile.step=8", "profile.steps=6", "profile.ranks=[1]"])):
        done = train(f"name={name}", *poisoned, *overrides, processes=2, python=(POISONED, "0", "9", "12", "nan"))
        assert done.returncode == 0 and "back to step 8" in done.stdout, done.stderr
    plain, recorded = tmp_path / "plain", tmp_path / "recorded"
    assert [[record.get(key) for key in NUMBERS] for record in metrics(plain)] == [
        [record.get(key) for key in NUMBERS] for record in metrics(recorded)
    ]
    weights = "checkpoints/final/model.safetensors"
    assert (plain / weights).read_bytes() == (recorded / weights).read_bytes()
    assert not (plain / "profiles").exists()
    assert "profile: steps 8 to 13 of rank 1 are recorded: they are slower" in done.stdout
    assert [path.name for path in (recorded / "profiles").iterdir()] == ["step-00000008"]
    folder = recorded / "profiles" / "step-00000008"
    assert sorted(path.name for path in folder.iterdir()) == ["profile.json", "rank-1.json.gz"]
    found = events(folder / "rank-1.json.gz")
    assert {"ProfilerStep#1", "ProfilerStep#6", "aten::mm", "[memory]"} <= found and "ProfilerStep#7" not in found


def test_a_running_run_is_asked_for_a_trace_and_answers_with_its_folder(begin, tmp_path):
    run = tmp_path / "run"

    def profile(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "mfa_train.cli", "profile", str(run), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    process = begin("training.steps=100000", "training.eval_every=100000")
    done = profile("--steps", "2")
    assert done.returncode == 0, done.stderr
    [folder] = (run / "profiles").iterdir()
    assert done.stdout.startswith(f"{folder}: steps ") and "rank 0: rank-0.json.gz" in done.stdout
    assert {"ProfilerStep#2", "aten::mm"} <= events(folder / "rank-0.json.gz")
    done = profile("--ranks", "0,7")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "error: --ranks=0,7: the run has one rank, 0: type those",
    )
    assert profile("--step", "90000", "--no-wait").returncode == 0
    done = profile()
    assert done.returncode == 2 and "is asked for already" in done.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert "the run ended before the profile was made" in (run / "profiles" / "request.json").read_text()
    done = profile()
    assert done.returncode == 2 and "is stopped, and only a running run can be profiled" in done.stderr
