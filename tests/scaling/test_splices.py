"""A run whose loss is not that of its config takes no part, whatever says so: its summary, its starts, its learning
rates."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from mfa_train.config import ScheduleConfig
from mfa_train.errors import DataError
from mfa_train.scaling.compare import compare as compare_study
from mfa_train.scaling.study.gather import gather
from mfa_train.training.resuming.stretches import continued, rate_of, spliced
from mfa_train.training.steps.schedule import learning_rate
from tests.conftest import ROOT
from tests.scaling.synthetic import edit

COSINE = {
    "optimizer.lr": 0.004,
    "optimizer.betas": [0.9, 0.95],
    "training.steps": 1000,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 100,
    "schedule.min_lr_ratio": 0.1,
    "schedule.decay_fraction": 0.2,
    "precision": "fp32",
    "guard.spikes": "log",
    "training.z_loss": 0.0,
}
WSD = COSINE | {"schedule.name": "wsd"}
PLAIN = {"rollbacks": 0, "left_out_samples": 0, "skipped_steps": 0}


def stretches(*parts: tuple[int, dict]) -> list[dict]:
    return [{"from_step": step, **settings} for step, settings in parts]


@pytest.mark.parametrize(
    "now, clean",
    [
        (stretches((0, COSINE)), True),
        (stretches((0, COSINE | {"training.steps": 500}), (500, COSINE)), False),
        (stretches((0, COSINE | {"optimizer.lr": 0.002}), (500, COSINE)), False),
        (
            stretches((0, COSINE | {"training.steps": 400}), (400, COSINE | {"training.steps": 700}), (700, COSINE)),
            False,
        ),
        (stretches((0, COSINE | {"optimizer.betas": [0.9, 0.99]}), (1, COSINE)), False),
        (stretches((0, COSINE | {"precision": "bf16"}), (500, COSINE)), False),
        (stretches((0, COSINE | {"training.z_loss": 1e-4}), (500, COSINE)), False),
        (stretches((0, COSINE | {"guard.spikes": "skip"}), (500, COSINE)), False),
        (stretches((0, COSINE | {"training.steps": 500}), (100, COSINE)), True),  # both are still warming up
        (stretches((0, WSD | {"training.steps": 2000}), (800, WSD)), True),  # branched off before either decays
        (stretches((0, WSD | {"training.steps": 900}), (800, WSD)), False),  # decaying already
        (stretches((0, COSINE), (500, COSINE | {"training.unknown_then": 3})), True),
    ],
)
def test_stretches_are_one_curve_where_every_step_had_what_the_last_settings_give(now, clean, few):
    run = next(few.glob("mfa-*"))
    edit(run, stretches=now, **PLAIN)
    study = gather([few])
    assert (run.name in {one.name for one in study.used}) == clean
    assert clean or any(
        f"left out: {run.name}: its loss is not that of its config: steps 1 to" in told for told in study.notices
    )


def test_a_start_from_an_earlier_step_takes_the_place_of_the_stretches_behind_it():
    killed = continued(continued([], 0, COSINE), 500, COSINE | {"optimizer.lr": 0.1})
    assert spliced(killed) and spliced(continued(killed, 500, COSINE)) is None
    assert continued(killed, 600, COSINE | {"optimizer.lr": 0.1}) == killed
    assert continued([], 300, COSINE)[0]["from_step"] == 300  # of an older checkpoint nothing is known before


@pytest.mark.parametrize("counted", [{"rollbacks": 1}, {"left_out_samples": 40}, {"skipped_steps": 2}])
def test_a_run_that_left_out_steps_or_samples_is_left_out(counted, few):
    run = next(few.glob("mfa-*"))
    before = compare_study(gather([one for one in few.iterdir() if one != run]))["verdicts"]
    edit(run, stretches=stretches((0, COSINE)), **(PLAIN | counted))
    study = gather([few])
    assert f"left out: {run.name}: its loss is not its config's alone" in "\n".join(study.notices)
    assert compare_study(study)["verdicts"] == before


@pytest.mark.parametrize(
    "starts, clean",
    [
        ([(0, []), (200, []), (300, ["zero: 1 -> 3", "processes: 2 -> 1", "attention.kernel: auto -> sdpa"])], True),
        ([(0, []), (200, ["training.steps: 200 -> 24414"])], False),
        ([(0, []), (200, ["optimizer.weight_decay: 0.2 -> 0.1"])], False),
        ([(0, []), (200, ["precision: bf16 -> fp32"])], False),
        ([(0, []), (200, ["guard.spikes: skip -> log"])], False),
        ([(0, []), (200, ["optimizer.lr: 0.1 -> 0.004"]), (200, [])], True),  # killed before it saved anything
        ([(0, []), (200, ["training.new_key: None -> 1"])], True),  # a later version's
        ([(50, ["training.steps: 48828 -> 24414"])], True),  # a branch, while both warm up
    ],
)
def test_the_starts_of_a_run_of_an_older_version_tell_what_changed(starts, clean, few):
    run = next(few.glob("mfa-*"))
    (run / "starts.jsonl").write_text(
        "\n".join(json.dumps({"from_step": step, "changed": changed}) for step, changed in starts)
    )
    study = gather([few])
    assert (run.name in {one.name for one in study.used}) == clean, study.notices


@pytest.mark.parametrize("line", ['{"from_st\x00', "[3]", '{"from_step": 5, "changed": [4]}', None])
def test_where_a_start_is_damaged_or_missing_and_nothing_else_tells_of_its_steps_the_run_is_left_out(line, few):
    run = next(few.glob("mfa-*"))
    whole = json.dumps({"from_step": 0 if line else 8, "changed": []})
    (run / "starts.jsonl").write_text(f"{whole}\n{line or ''}\n")
    if line is None:  # a branch off a run of an older version
        edit(run, stretches=stretches((8, COSINE)), **PLAIN)
    study = gather([few])
    assert run.name not in {one.name for one in study.used} and "known" in "\n".join(study.notices)
    (run / "starts.jsonl").write_text(whole.replace("8", "0"))
    assert run.name in {one.name for one in gather([few]).used}


@pytest.mark.parametrize("factor, clean", [(1.0, True), (1.001, False)])
def test_learning_rates_that_are_not_the_schedules_prove_a_splice(factor, clean, few):
    run = next(few.glob("mfa-*"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    schedule, steps = ScheduleConfig(**config["schedule"]), config["training"]["steps"]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record["lr"] = learning_rate(schedule, config["optimizer"]["lr"], record["step"] - 1, steps)
    records[7]["lr"] *= factor
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    study = gather([few])
    assert (run.name in {one.name for one in study.used}) == clean
    assert clean or any("had a learning rate of" in told for told in study.notices)


def test_the_recorded_ladders_are_all_what_their_configs_say():
    study = gather([ROOT / "docs" / "results" / "nano" / f"{name}.zip" for name in ("ladder", "causes", "mla")])
    assert len(study.used) == len(study.runs) == 382
    assert rate_of({}) is None


def test_precision_auto_that_meant_two_things_makes_two_variants(few):
    for run in few.glob("mfa-*"):
        meant = "bf16" if run.name.endswith("seed1") else "fp32"
        edit(run, stretches=stretches((0, COSINE | {"precision": meant})), **PLAIN)
        again = few / f"{run.name}-again"
        again.mkdir()
        for file in run.iterdir():
            (again / file.name).write_bytes(file.read_bytes())
        edit(again, stretches=stretches((0, COSINE | {"precision": "fp32"})), **PLAIN)
    assert {run.variant for run in gather([few]).used} == {"mfa", "mfa precision=bf16", "mha"}


def test_a_run_that_was_extended_tells_it_itself_and_is_not_compared(prepared_data, tmp_path):
    def train(*words) -> None:
        done = subprocess.run(
            [
                sys.executable,
                "train.py",
                "model=280k",
                "attention=mfa",
                "name=one",
                f"data_dir={prepared_data}",
                f"runs_dir={tmp_path}",
                "precision=fp32",
                "schedule.warmup_steps=1",
                "training.eval_sequences=4",
                "training.batch_size=2",
                "training.sequence_length=32",
                "sample.max_new_tokens=0",
                "tracking=none",
                *words,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr

    train("training.steps=3")
    train("training.steps=6")
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert [(one["from_step"], one["training.steps"]) for one in summary["stretches"]] == [(0, 3), (3, 6)]
    assert summary["skipped_steps"] == summary["rollbacks"] == summary["left_out_samples"] == 0
    with pytest.raises(DataError, match="steps 1 to 3 were trained with training.steps=3, those since with 6"):
        gather([tmp_path])
