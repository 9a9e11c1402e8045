"""Runs scored on tasks: on their way, and by `mfa-train evaluate`, by one process and by two."""

import contextlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from mfa_train import cli
from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.training.before_start import checked_tasks
from mfa_train.training.run import run
from tests.conftest import ROOT
from tests.evaluation.four_tasks import OUTPUT_TYPES, four_tasks
from tests.test_first_round import FILES, TYPED, records

TASKS = ",".join(OUTPUT_TYPES)
SCORED = ["evaluation.every_steps=2", f"evaluation.tasks=[{TASKS}]", "evaluation.batch_tokens=300"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def start(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(words), cwd=folder, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def made(folder: Path, *overrides: str, begin: tuple[str, ...] = (sys.executable,)) -> Path:
    """The last four of the twelve steps of a run, trained with `overrides`; gives its folder."""
    shutil.copytree(FILES, folder)
    four_tasks(folder / "data" / "tasks")
    run = folder / "runs" / "mfa"
    shutil.rmtree(run / "checkpoints" / "final")
    (run / "summary.json").unlink()
    # With a z-loss, which training alone has: a model that is left as it is scored would show.
    start(folder, *begin, str(ROOT / "train.py"), *TYPED, "training.z_loss=0.1", *overrides)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "plain": made(folder / "plain"),
        "scored": made(folder / "scored", *SCORED, "training.ema=0.9"),
        "two ranks": made(folder / "two", *SCORED, "zero=3", "parallel.context=2", begin=tuple(TWO)),
    }


def scores(run: Path, step: int) -> dict[str, dict]:
    return {
        task: json.loads((run / "evaluations" / f"{task}-0shot-step-{step:08d}.json").read_text())
        for task in OUTPUT_TYPES
    }


@pytest.fixture
def door(monkeypatch):
    """`door(folder, *words)`: status, standard output and error of `mfa-train WORDS` typed in a folder."""

    def type_in(folder: Path, *words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["mfa-train", *map(str, words)])
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            return cli.main(), out.getvalue(), err.getvalue()

    return type_in


def test_a_run_that_is_scored_on_its_way_has_the_same_curve(runs):
    plain, scored = records(runs["plain"]), records(runs["scored"])
    assert [one["step"] for one in scored] == list(range(1, 13))
    for key in ("train/loss", "grad_norm", "lr", "val/loss"):
        assert [one.get(key) for one in plain] == [one.get(key) for one in scored]
    with_scores = [one["step"] for one in scored if any(key.startswith("eval/") for key in one)]
    assert with_scores == [10, 12]  # the eighth step lies before the checkpoint that it went on from
    assert (
        scored[-1]["eval/text/bits_per_byte"] == scores(runs["scored"], 12)["text"]["metrics"]["bits_per_byte"]["value"]
    )
    summary = json.loads((runs["scored"] / "summary.json").read_text())
    assert summary["evaluations"]["text"]["bits_per_byte"] == scored[-1]["eval/text/bits_per_byte"]
    assert set(summary["evaluations"]["choice"]) >= {"acc", "acc_stderr", "bits_per_byte"}
    told = {(one["checkpoint"], one["tokens"]) for step in (10, 12) for one in scores(runs["scored"], step).values()}
    assert told == {("step-10", 10 * 4 * 64), ("final", 12 * 4 * 64)}


def test_ranks_that_share_parameters_sequences_and_requests_get_the_scores_of_one(runs):
    for step in (10, 12):
        one, two = scores(runs["scored"], step), scores(runs["two ranks"], step)
        for task in OUTPUT_TYPES:
            assert one[task]["documents_sha256"] == two[task]["documents_sha256"]
            assert one[task]["by_document"].keys() == two[task]["by_document"].keys()
            for metric, values in one[task]["by_document"].items():
                assert two[task]["by_document"][metric] == pytest.approx(values, rel=1e-3)
    losses = [one["train/loss"] for one in records(runs["two ranks"])]
    assert losses == pytest.approx([one["train/loss"] for one in records(runs["plain"])], rel=1e-5)


def test_the_command_gives_the_scores_that_the_run_ended_with_and_changes_nothing_else(runs, tmp_path, door):
    shutil.copytree(runs["scored"].parent.parent, tmp_path / "one")
    run = tmp_path / "one" / "runs" / "mfa"
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({key: summary[key] for key in summary if key != "evaluations"}))
    at_its_end = scores(run, 12)
    shutil.rmtree(run / "evaluations")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "summary.json"}
    words = ["evaluate", "runs/mfa", f"tasks={TASKS}", "batch_tokens=300"]
    two = start(tmp_path / "one", *TWO, "-m", "mfa_train.cli", *words, "--json")
    told = {one["task"]: one for one in json.loads(two.stdout)}
    of_two = scores(run, 12)
    for task in OUTPUT_TYPES:
        assert told[task] == {key: value for key, value in of_two[task].items() if key != "format"}
        assert of_two[task]["by_document"] == at_its_end[task]["by_document"]
    assert json.loads((run / "summary.json").read_text()) == summary
    assert before == {path: path.read_bytes() for path in before}
    status, table, _ = door(tmp_path / "one", *words, "limit=5")
    rows = [line.split() for line in table.splitlines()]
    assert status == 0 and [row[0] for row in rows if "acc" in row] == ["choice", "acc"]
    assert rows[1][:4] == ["choice", "3.0", "0", "5"]
    limited = json.loads((run / "evaluations" / "text-0shot-limit-5-step-00000012.json").read_text())
    assert limited["limit"] == limited["documents"] == 5 and scores(run, 12) == of_two
    assert door(tmp_path / "one", *words, "limit=5", "--ema")[0] == 0
    averaged = json.loads((run / "evaluations" / "text-0shot-limit-5-step-00000012-ema.json").read_text())
    assert (limited["checkpoint"], averaged["checkpoint"]) == ("final", "final-ema") and scores(run, 12) == of_two
    assert averaged["metrics"] != limited["metrics"]
    status, _, told = door(runs["plain"].parent.parent, *words, "--ema")
    assert (
        status == 2 and "runs/mfa has no average of the weights of final (training.ema=null); leave --ema, or" in told
    )
    assert json.loads((run / "summary.json").read_text()) == summary  # which keeps to those of more documents


def test_a_checkpoint_of_a_run_that_has_not_ended_is_scored(runs, tmp_path, door):
    shutil.copytree(FILES, tmp_path / "killed")
    run = tmp_path / "killed" / "runs" / "mfa"
    shutil.rmtree(run / "checkpoints" / "final")
    (run / "summary.json").unlink()
    (run / "metrics.jsonl").write_text("")
    words = ["evaluate", "runs/mfa", "tasks=text,choice", f"tasks_dir={four_tasks(tmp_path / 'tasks')}"]
    status, out, error = door(tmp_path / "killed", *words)
    assert (status, out) == (2, "") and "type --checkpoint step-00000008" in error
    status, out, error = door(tmp_path / "killed", *words, "--checkpoint", "step-8", "--json")
    found = json.loads(out)
    assert status == 0 and [(one["checkpoint"], one["step"]) for one in found] == [("step-8", 8)] * 2
    assert not (run / "summary.json").exists()


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "no task is named: type tasks="),
        (["tasks=choice", "--checkpoint", "step-9"], "has no step-00000009; type --checkpoint step-00000008"),
        (["tasks=choice", "optimizer.lr=1"], "optimizer.lr=1: expected tasks, tasks_dir"),
        (["tasks=choice", "limit=0"], "evaluation.limit=0: expected a whole number of at least 1"),
        (["tasks=going_on", "tasks_dir=long"], "max_gen_toks=64: the model reads 64 tokens at once"),
    ],
)
def test_what_cannot_be_scored_is_told_in_one_line_and_nothing_is_written(words, told, tmp_path, door):
    shutil.copytree(FILES, tmp_path / "here")
    four_tasks(tmp_path / "here" / "data" / "tasks")
    four_tasks(tmp_path / "here" / "long", max_gen_toks=64)
    before = sorted((tmp_path / "here").rglob("*"))
    status, out, error = door(tmp_path / "here", "evaluate", "runs/mfa", *words)
    assert (status, out, error.count("\n")) == (2, "", 1) and told in error
    assert sorted((tmp_path / "here").rglob("*")) == before


def test_scores_that_could_not_be_written_are_not_worked_out(tmp_path, door):
    shutil.copytree(FILES, tmp_path / "here")
    four_tasks(tmp_path / "here" / "data" / "tasks")
    (tmp_path / "here" / "runs" / "mfa" / "evaluations").write_text("mine")
    status, out, error = door(tmp_path / "here", "evaluate", "runs/mfa", "tasks=choice")
    assert (status, out, error.count("\n")) == (2, "", 1) and "evaluations: scores can't be written there" in error


def test_without_lm_eval_it_is_said_how_to_get_it_before_anything(door, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, out, error = door(FILES, "evaluate", "no/run", "tasks=choice")
    assert (status, out) == (2, "") and error.endswith("type pip install 'mfa-train[eval]'\n")
    with pytest.raises(ConfigError, match=r"evaluation.every_steps needs lm-eval.*mfa-train\[eval\]"):
        checked_tasks(configs.load(["evaluation.every_steps=5", "evaluation.tasks=[choice]"]))


def test_a_task_that_cannot_be_scored_ends_a_run_before_there_are_data(tmp_path):
    tasks = four_tasks(tmp_path / "tasks", max_gen_toks=64)
    words = ["evaluation.every_steps=5", "evaluation.tasks=[going_on]", f"evaluation.tasks_dir={tasks}"]
    with pytest.raises(ConfigError, match="evaluation.every_steps=5 without a task"):
        configs.load(words[:1])
    config = configs.load([*TYPED, *words, f"data.path={tmp_path}/nowhere", f"runs_dir={tmp_path}/runs"])
    with pytest.raises(ConfigError, match="max_gen_toks=64: the model reads 64 tokens at once"):
        run(config)
    assert not (tmp_path / "runs" / "mfa").exists()


def test_a_finished_runs_scores_go_to_its_run_in_wandb(door, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    shutil.copytree(FILES, tmp_path / "here")
    tasks = four_tasks(tmp_path / "here" / "data" / "tasks")
    run = tmp_path / "here" / "runs" / "gqa"
    starts = json.loads((run / "starts.jsonl").read_text().splitlines()[0])
    (run / "starts.jsonl").write_text(json.dumps(starts | {"wandb": {"id": "abc123", "url": None}}) + "\n")
    words = ["evaluate", "runs/gqa", "tasks=text", f"tasks_dir={tasks}"]
    assert door(tmp_path / "here", *words)[0] == 0  # the run's own tracking is none
    assert not (run / "evaluations" / "wandb").exists()
    status, _, error = door(tmp_path / "here", *words, "tracking.wandb=offline")
    assert status == 0 and "W&B: offline" in error
    wandb.teardown()  # which writes what is waiting, as the end of a process does
    (log,) = (run / "evaluations" / "wandb").glob("offline-run-*-abc123/*.wandb")
    assert b"eval/text/bits_per_byte" in log.read_bytes()
