"""How long a run is said to train, how often it reads its corpora, and what its checkpoints take."""

import json
import re
from pathlib import Path

import pytest
import torch

from mfa_train import config as configs
from mfa_train.budget.disk import disk_of
from mfa_train.budget.epochs import data_of, notes_of
from mfa_train.budget.length import length_of
from mfa_train.budget.plan import make_plan
from mfa_train.budget.table import table
from mfa_train.training.steps.schedule import learning_rate
from tests.conftest import ROOT


def corpus_of(folder: Path, tokens: int, vocab_size: int = 4096) -> Path:
    """A manifest alone, which is all that a plan reads."""
    sums = {"bin": "0" * 64, "idx": "0" * 64}
    shard = {"name": "train-00000", "tokens": tokens, "dtype": "uint16", "sha256": sums}
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                "format": 3,
                "tokenizer_file": "tokenizer.model",
                "tokenizer_sha256": "0" * 64,
                "eos_token": None,
                "vocab_size": vocab_size,
                "splits": {"train": {"shards": [shard]}, "held_out": {"shards": []}},
            }
        )
    )
    return folder


def test_7b_for_140b_tokens_of_a_million_is_140_000_epochs_and_warned_of(tmp_path):
    corpus = corpus_of(tmp_path / "small", tokens=1_000_000)
    typed = ["model=7b", "data=prepared", f"data.path={corpus}", "training.steps=null", "training.tokens=140e9"]
    data = data_of(configs.load(typed))
    assert data["sources"][0]["epochs"] == pytest.approx(140_000, rel=1e-4)
    assert notes_of(data)[0].startswith("warning: 140,000 epochs of ")
    four = data_of(configs.load([*typed[:4], "training.tokens=4e6", "training.sequence_length=250"]))
    assert not notes_of(four)


def test_each_source_of_a_mixture_has_its_own_epochs(tmp_path):
    code, web = (corpus_of(tmp_path / name, tokens) for name, tokens in (("code", 10_000), ("web", 1_000_000)))
    typed = [
        "data=mixture",
        f"data.corpora={{code: {code}, web: {web}}}",
        "data.weights={code: 1, web: 3}",
        "training.steps=100",
        "training.batch_size=4",
        "training.sequence_length=100",
    ]
    assert [source["epochs"] for source in data_of(configs.load(typed))["sources"]] == [1.0, 0.03]


def test_a_corpus_that_is_not_there_is_not_guessed(tmp_path):
    away, behind = ([f"data_dir={tmp_path}"], ["data=prepared", "data.path=s3://bucket/web"])
    for typed, told in ((away, "is not prepared here"), (behind, "lies behind a URL")):
        data = data_of(configs.load(typed))
        assert data["sources"][0]["epochs"] is None
        [note] = notes_of(data)
        assert told in note and "model.vocab_size=4096 is what the config says" in note


def test_another_vocabulary_than_the_tokenizers_is_told(tmp_path):
    typed = ["data=prepared", f"data.path={corpus_of(tmp_path / 'c', 10**9, vocab_size=32000)}"]
    assert "model.vocab_size=4,096 where the tokenizer of" in notes_of(data_of(configs.load(typed)))[0]


@pytest.mark.parametrize(
    "typed",
    ["", "schedule=linear", "schedule=wsd", "schedule=wsd schedule.decay_fraction=0", "schedule.warmup_steps=700"],
)
def test_the_last_rate_that_is_told_is_the_trainers(typed):
    config = configs.load(typed.split())
    steps = config.training.total_steps
    length = length_of(config, params=1000)
    assert length["last_learning_rate"] == pytest.approx(
        learning_rate(config.schedule, config.optimizer.lr, steps - 1, steps), abs=1e-12
    )
    assert length["tokens_per_parameter"] == length["tokens"] / 1000 == steps * 8 * 256 / 1000


def test_checkpoints_take_twelve_bytes_a_parameter_and_are_counted_as_they_are_kept():
    typed = ["training.steps=1000", "checkpoint.every_steps=100", "checkpoint.keep_last=2", "checkpoint.keep_every=500"]
    disk = disk_of(configs.load([*typed, "checkpoint.at_steps=[150]"]), 10**6, torch.bfloat16, step_seconds=3.6)
    assert disk["checkpoint_bytes"] == 12 * 10**6 and disk["saves_per_hour"] == pytest.approx(10)
    assert disk["checkpoints_kept"] == 2 + 2 + 1
    assert disk["most_bytes"] == 6 * 12 * 10**6 + 2 * 10**6 and disk["bytes_per_hour"] == pytest.approx(1.2e8)


def test_a_run_shorter_than_an_hour_writes_its_own_saves_and_no_more():
    """nano on an H100: 700 steps of 0.0001 s, saved every hundred."""
    plan = make_plan(configs.load(["cluster.device=h100-80gb", "precision=bf16"]))
    assert plan["time"]["run_seconds"] < 1 and plan["disk"]["saves_per_hour"] == 7
    assert plan["disk"]["bytes_per_hour"] == 7 * 12 * plan["params"]["total"]
    assert re.search("^disk, written in the run +264 MiB$", table(["mfa"], [plan]), re.M)


def test_a_branch_saves_what_comes_behind_its_beginning():
    config = configs.load(["training.steps=1000", "checkpoint.every_steps=100", "checkpoint.at_steps=[150]"])
    branch = disk_of(config, 10**6, torch.bfloat16, step_seconds=0.01, branches_at=850)
    assert branch["saves_per_hour"] == 2 and branch["checkpoints_kept"] == 2


def test_a_real_checkpoint_has_the_bytes_that_a_plan_tells():
    """Of the run of the first round that the tests keep."""
    checkpoint = max((ROOT / "tests").glob("**/checkpoints/step-*"))
    config = configs.of_run(checkpoint.parent.parent)
    params = json.loads((checkpoint.parent.parent / "summary.json").read_text())["params"]
    there = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert disk_of(config, params, torch.float32, 1.0)["checkpoint_bytes"] == pytest.approx(there, rel=0.1)
