"""Mixtures of experts in a comparison: what N counts, and that no law is of them and of dense models."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mfa_train import config as configs
from mfa_train.errors import DataError
from mfa_train.scaling.compare import compare
from mfa_train.scaling.study.gather import gather
from tests.scaling.synthetic import NANO, Variant, write_run

TOTAL = {"mha": 8e6, "mfa": 8.01e6}
ACTIVE = {"mha": 2e6, "mfa": 2.3e6}


def run(folder: Path, attention: str, seed: int, kind: str) -> Path:
    config = yaml.safe_load(configs.to_yaml(configs.load([f"attention={attention}", f"feed_forward={kind}"])))
    config |= {"name": folder.name, "seed": seed}
    config["training"] |= {"steps": 1000}
    variant = Variant(attention, NANO, 1.0)
    path = write_run(folder, config, variant, TOTAL[attention], 2_048_000, 3 + 0.01 * seed, records=5)
    if kind == "experts":
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps(summary | {"active_params": ACTIVE[attention]}))
    return path


@pytest.fixture
def runs(tmp_path) -> Path:
    for attention in TOTAL:
        for seed in (1, 2):
            run(tmp_path / f"{attention}-{seed}", attention, seed, "experts")
    return tmp_path


def test_n_is_what_a_token_meets_and_said_and_models_of_one_total_are_pairs(runs):
    study = gather([runs])
    assert {run.attention: run.params for run in study.used} == ACTIVE
    assert any(
        "N of mixtures counts the parameters that a token meets (2e+06 of 8e+06" in line for line in study.notices
    )
    result = compare(study)
    assert result["conventions"]["parameters"].endswith("of mixtures of experts those alone that a token meets")
    assert {row["total_params"] for row in result["runs"]} == set(TOTAL.values())
    (verdict,) = result["verdicts"]
    assert verdict["largest_params_difference"] == pytest.approx(0.15, abs=0.03)
    without = gather([runs], parameters="non_embedding").used[0]
    assert without.params == without.non_embedding_params - (without.total_params - without.active_params)


def test_dense_models_and_mixtures_are_refused_unless_they_are_told_apart(runs):
    run(runs / "dense", "mha", 1, "dense")
    with pytest.raises(DataError, match="4 of 5 runs are mixtures .* --by model.feed_forward.name to hold them side"):
        gather([runs])
    study = gather([runs], by=("model.feed_forward.name",))
    assert study.variants().keys() == {"mha dense", "mha experts", "mfa experts"}
    shutil.rmtree(runs / "dense")
    assert gather([runs]).variants().keys() == {"mha", "mfa"}
