"""train.py and `mfa-train` as a user types them."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mfa_train import config as configs
from tests.conftest import ROOT, VARIANTS
from tests.end_to_end.conftest import metrics

MARKS = {"mfa": pytest.mark.real_command, "mla": (), "deepseek_v4": ()}
EACH = [pytest.param(name, marks=MARKS.get(name, pytest.mark.long)) for name in VARIANTS]


@pytest.mark.parametrize("attention", EACH)
def test_each_attention_trains_evaluates_writes_text_and_leaves_its_files(attention, train, tmp_path):
    done = train(f"attention={attention}", "precision=auto", "optimizer.lr=3e-3", "training.steps=40")
    assert done.returncode == 0, done.stderr
    run = tmp_path / f"{attention}-nano"
    assert {"config.yaml", "plan.json", "metrics.jsonl", "summary.json", "checkpoints"} <= {
        p.name for p in run.iterdir()
    }

    curve, summary = metrics(run), json.loads((run / "summary.json").read_text())
    assert {"step", "tokens", "flops", "train/loss", "lr", "grad_norm", "tokens_per_second", "mfu", "seconds"} <= curve[
        0
    ].keys()
    assert {"val/loss", "val/bits_per_byte"} <= curve[-1].keys()
    assert curve[-1]["val/loss"] < curve[0]["train/loss"] - 1
    assert (
        summary.items()
        >= {
            "status": "finished",
            "attention": attention,
            "val_loss": curve[-1]["val/loss"],
            "tokens": 40 * 8 * 64,
            "flops": curve[-1]["flops"],
        }.items()
    )
    plan = json.loads((run / "plan.json").read_text())
    assert plan["flops"]["train_total"] == summary["flops"]
    assert yaml.safe_load((run / "config.yaml").read_text())["attention"]["name"] == attention
    assert summary["config_sha256"] == hashlib.sha256((run / "config.yaml").read_bytes()).hexdigest()
    assert {"tokenizer_sha256", "train_sha256", "held_out_sha256"} == summary["data"].keys()
    assert "torch" in summary["versions"] and "code_commit" in summary

    for shown in ("held-out bits per byte", "zlib -9, same bytes", "A sample:\n\ndef ", f"Run folder  {run}"):
        assert shown in done.stdout


def test_bits_per_byte_are_those_of_the_text(train, tmp_path):
    """A loss in nats over bytes: with one held-out window, the bytes are counted from the text itself."""
    from tests.data.corpora import opened

    done = train("name=run", "training.eval_sequences=1", "training.steps=5")
    assert done.returncode == 0, done.stderr
    config, last = configs.of_run(tmp_path / "run"), metrics(tmp_path / "run")[-1]
    corpus = opened(config.data.path)
    num_bytes = len(corpus.tokenizer.text_bytes(corpus.held_out.read(1, 65)))
    assert last["val/bits_per_byte"] == pytest.approx(last["val/loss"] * 64 / 0.6931471805599453 / num_bytes)


def test_wandb_files_of_an_offline_run_hold_config_plan_curves_and_axes(train, tmp_path):
    done = train("name=run", "tracking.wandb=offline")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert f"wandb leet {run}" in done.stdout
    # Read back with W&B's own reader.
    wandb = Path(sys.executable).with_name("wandb")
    read = subprocess.run(
        [wandb, "leet", "inspect", "--json", run / "wandb" / "latest-run"], capture_output=True, text=True, check=True
    ).stdout
    records: dict[str, list[dict]] = {}
    for line in read.splitlines():
        record = json.loads(line)
        records.setdefault(record["type"], []).append(record[record["type"]])

    config = records["run"][0]["config"]["update"]
    assert config["attention"]["name"] == "mfa"
    assert config["plan"].items() >= json.loads((run / "plan.json").read_text()).items()
    logged = [item["item"] for item in records["history"]]
    assert [item["train/loss"] for item in logged] == [record["train/loss"] for record in metrics(run)]
    assert [item["tokens"] for item in logged] == [record["tokens"] for record in metrics(run)]
    axes = {metric.get("name") or metric["glob_name"]: metric.get("step_metric") for metric in records["metric"]}
    assert {"tokens", "flops"} <= axes.keys() and axes["*"] == "tokens"
    assert {"status": "finished", "attention": "mfa"}.items() <= {
        key: value for update in records["summary"] for key, value in update["update"].items()
    }.items()


def test_a_wandb_failure_never_stops_a_run(train, tmp_path, monkeypatch):
    """And a run that is trained anew is not the one that a variable names."""
    monkeypatch.setenv("WANDB_API_KEY", "short")
    monkeypatch.setenv("WANDB_RUN_ID", "the-one")
    done = train("name=run", "tracking.wandb=online", "resume=never")
    assert done.returncode == 0, done.stderr
    assert "W&B can't be logged to (" in done.stdout and "logging offline" in done.stdout
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*")) and not list(
        (tmp_path / "run" / "wandb").glob("*the-one")
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def test_a_finished_run_is_left_as_it_is_and_another_never_takes_its_folder(train, tmp_path):
    command = ("name=run", "training.steps=2", "schedule.warmup_steps=1")
    assert train(*command).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again, other = train(*command), train(*command, "seed=2")
    assert again.returncode == 0 and "finished before" in again.stdout
    assert other.returncode == 2 and "seed: 1 -> 2" in other.stderr and "resume=never" in other.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert train(*command, "seed=2", "resume=never").returncode == 0
    assert yaml.safe_load((tmp_path / "run~1" / "config.yaml").read_text())["seed"] == 1


def test_generate_continues_a_prompt_from_the_final_weights(train, tmp_path):
    assert train("name=run", "training.steps=2", "schedule.warmup_steps=1").returncode == 0
    command = [sys.executable, "-m", "mfa_train.cli", "generate", str(tmp_path / "run"), "--prompt", "class 'A':\n"]
    executed = os.environ | {"PYTHONHASHSEED": "7"}  # the second, which is not forked
    texts = [
        subprocess.run([*command, seed], cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        for seed, environment in (("seed=1", None), ("seed=1", executed), ("seed=2", None))
    ]
    assert all(text.startswith("class 'A':\n") for text in texts)
    assert texts[0] == texts[1] != texts[2]


def test_a_loss_that_is_not_finite_ends_the_run(train, tmp_path):
    done = train("name=run", "optimizer.lr=1e38")
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: the (loss|gradient's norm) is (nan|inf) .*optimizer.lr=.*", done.stderr.strip().splitlines()[-1]
    )
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert train("name=run", "optimizer.lr=1e38").returncode == 1  # started again, not taken for finished
