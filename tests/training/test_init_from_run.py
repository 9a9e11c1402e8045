"""Runs that begin with another run: exported, its checkpoints, compared with runs from scratch."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.export.export import export
from mfa_train.export.formats import DeepseekV3
from mfa_train.scaling.study.gather import gather
from mfa_train.training.init_from.begin import require_source
from mfa_train.training.init_from.same_model import require_same_model
from mfa_train.training.init_from.source import open_source
from mfa_train.training.resuming.resume_point import find_resume_point
from mfa_train.training.run_folder.folder import RunFolder
from tests.conftest import ROOT
from tests.end_to_end.conftest import SHORT
from tests.export.remote_folders import weights_there
from tests.scaling.synthetic import VARIANTS, write_ladder
from tests.training.sources import filled, record_of


@pytest.fixture(autouse=True)
def few_values_at_once(monkeypatch):
    monkeypatch.setattr("mfa_train.checkpoints.safetensors_folder.AT_ONCE", 1500)


def test_an_exported_run_begins_where_it_ended_and_goes_on_without_its_source(prepared_data, tmp_path):
    """A mixture of experts with a bias, which moves at each step."""
    mixture = ["feed_forward=experts", "model.feed_forward.scoring_func=sigmoid"]
    mixture += ["model.feed_forward.bias_update_speed=0.01", "model.feed_forward.moe_intermediate_size=24"]
    common = [*SHORT, f"data_dir={prepared_data}", f"runs_dir={tmp_path}", "attention=mla", *mixture]

    def train(*overrides: str) -> tuple[str, dict]:
        done = subprocess.run(
            [sys.executable, "train.py", *common, "training.eval_every=50", "training.log_every=50", *overrides],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr, json.loads((tmp_path / overrides[0][5:] / "summary.json").read_text())

    _, first = train("name=one", "training.steps=3", "schedule.warmup_steps=1")
    export(tmp_path / "one", source := tmp_path / "export")
    begun = ["name=two", f"init_from={source}", "seed=2", "schedule.warmup_steps=1"]
    told, second = train(*begun, "training.steps=2")
    record = second["init_from"]
    assert f"held-out loss before the first step {first['val_loss']:.4f}" in told
    assert record["val_loss"] == first["val_loss"]  # the same bits
    assert (record["source"], record["kind"]) == (str(source), "deepseek_v3")
    digest = subprocess.check_output(["sha256sum", source / "model.safetensors"], text=True).split()[0]
    assert record["sha256"] == digest
    shutil.rmtree(source)
    told, longer = train(*begun, "training.steps=3")
    assert "goes on from" in told and longer["init_from"] == record
    starts = [json.loads(line) for line in (tmp_path / "two" / "starts.jsonl").read_text().splitlines()]
    assert [start["init_from"]["sha256"] for start in starts] == [digest] * 2

    # What is asked of a run that is there, without starting one.
    checkpoint = tmp_path / "one" / "checkpoints" / "step-00000003"
    final = load_file(tmp_path / "one" / "checkpoints" / "final" / "model.safetensors")
    for place in (checkpoint, checkpoint.parent / "final", tmp_path / "one"):
        config = configs.load([*common, "name=three", f"init_from={place}", "training.steps=9"])
        opened_source = open_source(config.init_from, config)
        assert require_same_model(opened_source) == [] and record_of(opened_source)["step"] == 3
        found = weights_there(DeepseekV3(config), filled(config, opened_source))
        assert found.keys() == final.keys() and any(name.endswith("experts.3.down_proj.weight") for name in found)
        assert all(torch.equal(found[name], weight) for name, weight in final.items())
        assert all(weight.any() for name, weight in final.items() if name.endswith("bias"))
    for original in (256, 64):  # it reads 256 tokens, and was trained on 64
        scaled = ["experiment=long_context_yarn", f"attention.rope_scaling.original_max_position_embeddings={original}"]
        config = configs.load([*common, "name=longer", f"init_from={tmp_path / 'one'}", *scaled])
        told = require_same_model(open_source(config.init_from, config))
        assert any("rope_scaling is {" in line for line in told)
        assert any("is 256 here, and the source's training.sequence_length is 64" in line for line in told) == (
            original == 256
        )
        assert any("model.max_position_embeddings is 1024 here and 256 there" in line for line in told) == (
            original == 256
        )
    config = configs.load([*common, "name=three", f"init_from={tmp_path / 'one'}", "training.steps=9"])
    resuming = dataclasses.replace(config, resume=str(checkpoint))
    with pytest.raises(ConfigError, match="init_from begins a run anew with weights alone: type one of them"):
        find_resume_point(resuming, tmp_path / "three", {}, print)
    with pytest.raises(ConfigError, match="holds another run .*init_from: .* -> None"):
        RunFolder(configs.load([*common, *begun[2:], "name=two", "training.steps=9"])).open()
    gone = dataclasses.replace(config, init_from=str(source))
    with pytest.raises(ConfigError, match="no such folder.*hf download NAME --local-dir FOLDER"):
        require_source(gone)
    require_source(dataclasses.replace(gone, name="two"))  # which has checkpoints


def test_such_runs_are_compared_with_runs_from_scratch_only_when_asked(tmp_path):
    runs = write_ladder(tmp_path, VARIANTS[:1], {"4x192": 3.2e6}, (5e7,), (1, 2))
    config = runs[0] / "config.yaml"
    config.write_text(config.read_text().replace("init_from: null", "init_from: runs/before"))
    study = gather([tmp_path])
    assert [run.name for run in study.used] == [runs[1].name]
    assert any("began with the weights of runs/before" in line and "--by init_from" in line for line in study.notices)
    assert set(gather([tmp_path], by=("init_from",)).variants()) == {"mha init_from=None", "mha init_from=runs/before"}
    assert [run.name for run in gather([runs[0]]).used] == [runs[0].name]
