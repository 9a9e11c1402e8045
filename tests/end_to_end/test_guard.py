"""Numbers that cannot be right, in real runs whose loss is poisoned at chosen samples."""

import json
import math

from tests.conftest import ROOT
from tests.end_to_end.conftest import metrics

POISONED = str(ROOT / "tests" / "end_to_end" / "poisoned.py")


def test_a_nan_ends_the_run_and_its_step_rank_and_samples_are_told_once(train, tmp_path):
    done = train("name=run", "training.log_every=7", "zero=1", processes=2, python=(POISONED, "1", "5", "5", "nan"))
    told = [line for line in done.stderr.splitlines() if "error: " in line and "torch" not in line]
    assert done.returncode != 0 and len(told) == 1, done.stderr
    assert told[0].startswith("error: the loss is nan at step 5 on rank 1 (samples 32 to 39 of the order)")
    assert [record["step"] for record in metrics(tmp_path / "run")] == [1]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_skipped_steps_change_nothing_are_told_and_too_many_roll_back_past_the_bad_data(train, tmp_path):
    """Batches 9 to 13 are NaN: with at most three skips in a row, the run goes back to step 8 and on with batch 13,
    which is skipped, and ends at step 20 having seen batch 24."""
    done = train(
        "name=run",
        "guard.nonfinite=skip",
        "guard.max_skips=3",
        "checkpoint.every_steps=4",
        "zero=0",
        "resume=never",
        python=(POISONED, "0", "9", "13", "nan"),
    )
    assert done.returncode == 0, done.stderr
    for told in (
        "step 9 skipped, 1 so far (the gradient's norm is inf; samples 64 to 71",
        "step 12 skipped, 4 so far",
        "back to step 8 (step-00000008) and past the samples since, rollback 1 of at most 3",
        "step 9 skipped, 5 so far (the gradient's norm is inf; samples 96 to 103",
    ):
        assert told in done.stdout
    curve = metrics(tmp_path / "run")
    assert [record["step"] for record in curve] == list(range(1, 21))
    assert [record["train/loss"] is None for record in curve] == [step == 9 for step in range(1, 21)]
    assert curve[-1]["skipped_steps"] == 5
    assert all(math.isfinite(record["train/loss"]) for record in curve if record["train/loss"] is not None)
