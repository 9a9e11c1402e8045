"""Runs of the first round (first_round/: made by commit 29e5ab9, with a checkpoint) are read by every later version as
what they were: resumed, generated from, exported and compared."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from mfa_train import config as configs
from mfa_train.checkpoints.manifest import manifest_of
from mfa_train.config import TrackingConfig
from mfa_train.export.export import export
from mfa_train.scaling.report.report import write_report
from mfa_train.scaling.study.gather import gather
from mfa_train.training.closing_sample import sample_from_run
from mfa_train.training.resuming.changes import changes
from tests.conftest import ROOT

TYPED = [
    "data=prepared",
    "data.path=corpus",
    "runs_dir=runs",
    "name=mfa",
    "attention=mfa",
    "model.hidden_size=32",
    "model.num_hidden_layers=2",
    "model.intermediate_size=48",
    "model.num_attention_heads=2",
    "model.num_key_value_heads=1",
    "model.head_dim=16",
    "model.vocab_size=512",
    "model.name=first_round",
    "training.steps=12",
    "schedule.warmup_steps=2",
    "training.batch_size=4",
    "training.sequence_length=64",
    "training.log_every=1",
    "training.eval_every=6",
    "training.eval_sequences=4",
    "checkpoint.every_steps=8",
    "precision=fp32",
    "tracking=none",
    "sample.max_new_tokens=8",
    "optimizer.lr=3e-3",
]
"""With what the run was made."""
FILES = Path(__file__).parent / "first_round"


@pytest.fixture
def folder(tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(FILES, tmp_path / "first_round")


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_is_known_to_have_finished_and_resumed_from_its_checkpoint_gives_the_same_curve(folder):
    run = folder / "runs" / "mfa"

    def train() -> str:
        done = subprocess.run(
            [sys.executable, ROOT / "train.py", *TYPED],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "holds this run, finished before" in train()
    before, summary = records(run), json.loads((run / "summary.json").read_text())
    shutil.rmtree(run / "checkpoints" / "final")
    (run / "summary.json").unlink()
    assert "step-00000008, after step 8" in train()
    assert configs.of_run(run).model.initialization.draw == 1, "its weights did not begin with today's draw"
    after, again = records(run), json.loads((run / "summary.json").read_text())
    assert [one["step"] for one in after] == [one["step"] for one in before] == list(range(1, 13))
    assert [one["train/loss"] for one in after] == pytest.approx([one["train/loss"] for one in before], rel=1e-5)
    assert again["val_loss"] == pytest.approx(summary["val_loss"], rel=1e-5)
    assert again["data"] == summary["data"]


def test_a_key_that_its_checkpoint_does_not_know_has_not_changed(folder):
    run = folder / "runs" / "mfa"
    old = manifest_of(run / "checkpoints" / "step-00000008")["config"]
    del old["guard"], old["checkpoint"]["background"], old["data"]["document_mask"]
    assert changes(configs.completed(old), configs.of_run(run)) == ([], [])


@pytest.mark.parametrize(
    "then, now",
    [
        ("eps: 1.0e-08", "eps: 0.0"),
        ("seed: 1", "seed: -1"),
        ("name: mfa", "name: ~x"),
        ("hang_seconds: 1800.0", "hang_seconds: 0.01"),
        ("project: mfa_train", "project: team/llm"),
        ("max_new_tokens: 8", "max_new_tokens: 100000"),
        ("runs_dir: runs", "runs_dir: s3://b/runs"),
    ],
)
def test_a_value_that_no_start_takes_any_more_is_still_that_of_the_run(folder, tmp_path, then, now):
    path = folder / "runs" / "mfa" / "config.yaml"
    assert f"{then}\n" in path.read_text()
    path.write_text(path.read_text().replace(f"{then}\n", f"{now}\n", 1))
    export(path.parent, tmp_path / "out")
    config = configs.of_run(path.parent, ["sample.temperature=0", "sample.max_new_tokens=2"])
    assert sample_from_run(config, path.parent).startswith("def ")


@pytest.mark.parametrize("name, text", [("mfa", "The run\x0cX\ufffdZE?%).gaine"), ("gqa", "The runseeeeeeeeeee")])
def test_it_generates_what_it_generated_then(folder, name, text):
    run = folder / "runs" / name
    config = configs.of_run(run, ["sample.temperature=0", "sample.max_new_tokens=12"])
    config.sample.prompt = "The run"
    assert sample_from_run(config, run) == text


def test_it_is_exported_with_the_weights_and_the_tokens_it_was_trained_with(folder, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mfa_train.data.tokenizer import open_tokenizer

    export(folder / "runs" / "gqa", tmp_path / "gqa")
    model, tokenizer = (kind.from_pretrained(tmp_path / "gqa") for kind in (AutoModelForCausalLM, AutoTokenizer))
    told = model.generate(**tokenizer("The run", return_tensors="pt"), max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(told[0], skip_special_tokens=True) == "The runseeeeeeeeeee"
    ours = open_tokenizer(folder / "corpus").encode(["a </s> word, 漢字"])[0].tolist()
    assert tokenizer.encode("a </s> word, 漢字", add_special_tokens=False) == ours
    export(folder / "runs" / "mfa", tmp_path / "mfa")
    exported, final = (
        load_file(path / "model.safetensors")
        for path in (tmp_path / "mfa", folder / "runs" / "mfa" / "checkpoints" / "final")
    )
    assert exported.keys() == final.keys() and all(exported[key].equal(final[key]) for key in final)


def test_it_is_compared(folder, tmp_path):
    study = gather([folder / "runs"])
    write_report(study, tmp_path / "report", TrackingConfig("disabled", "p", None, None))
    result = json.loads((tmp_path / "report" / "fit.json").read_text())
    assert {run["name"]: run["excluded"] for run in result["runs"]} == {"mfa": None, "gqa": None}
    (verdict,) = result["verdicts"]
    assert abs(verdict["difference"]["value"]) == pytest.approx(5.95823335647583 - 5.900394439697266, abs=1e-9)


@pytest.mark.parametrize("name", ["gqa", "mfa"])
def test_a_key_that_it_lacks_makes_no_variant_beside_a_run_that_has_it(name, folder):
    runs = folder / "runs"
    later = shutil.copytree(runs / name, runs / "later") / "config.yaml"
    earlier = runs / name / "config.yaml"
    tree = yaml.safe_load(earlier.read_text())
    del tree["data"]["lanes"], tree["data"]["document_mask"], tree["match"]["by"], tree["match"]["mha"]
    earlier.write_text(yaml.safe_dump(tree))
    later.write_text(configs.to_yaml(configs.of_run(later.parent)))
    assert "output_gate: none" in later.read_text() and "output_gate" not in earlier.read_text()
    assert list(gather([earlier.parent, later.parent]).variants()) == [name]


@pytest.mark.parametrize("seed", [1, 2])
def test_mla_with_the_query_it_had_by_default_and_with_its_default_query_are_two_variants(seed, folder):
    """Also where no seed was trained with both."""
    made, runs = FILES / "runs" / "gqa", folder / "mla"
    for name, rank, its_seed in (("earlier", 192, 1), ("later", None, seed)):
        run = shutil.copytree(made, runs / name)
        mla = configs.default_attention("mla", configs.of_run(made).model) | {"q_lora_rank": rank}
        (run / "config.yaml").write_text(yaml.safe_dump(configs.plain(made) | {"attention": mla, "seed": its_seed}))
        for file in (run / "summary.json", run / "plan.json"):
            file.write_text(json.dumps(json.loads(file.read_text()) | {"attention": "mla"}))
    assert set(gather([runs]).variants()) == {"mla q_lora_rank=192", "mla q_lora_rank=None"}
