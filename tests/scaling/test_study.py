"""Which runs can be compared, what they are named by, and what is said of the others."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mfa_train import config as configs
from mfa_train.errors import ConfigError, DataError
from mfa_train.scaling.compare import compare as compare_study
from mfa_train.scaling.ladder import members as ladder
from mfa_train.scaling.study.gather import gather
from tests.scaling.synthetic import NANO, VARIANTS, Variant, edit, write_ladder, write_run


def test_unfinished_broken_and_nan_runs_are_left_out_and_named(few, tmp_path):
    runs = sorted(few.iterdir())
    (runs[0] / "summary.json").unlink()
    edit(runs[1], val_loss=float("nan"))
    (runs[2] / "summary.json").write_text('{"status": "fin')
    (extra,) = write_ladder(tmp_path / "more", [VARIANTS[1]], {"4x192": 3.2e6}, (5e7,), (1,))
    edit(extra, status="failed")
    (extra / "metrics.jsonl").write_text((extra / "metrics.jsonl").read_text()[:-40])  # killed while writing
    study = gather([few, tmp_path / "more"])
    assert [run.name for run in study.used] == [runs[3].name]
    told = "\n".join(study.notices)
    for run, why in zip(
        [*runs[:3], extra], ("unfinished", "held-out loss is missing or not finite", "cannot be read", "failed")
    ):
        assert f"left out: {run.name}: " in told and why in told
    found = compare_study(study)
    assert found["variants"]["mha"]["fit"]["reason"].startswith("too few data: runs 1,")
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "file, changes",
    [
        ("plan.json", {"model": [1]}),
        ("plan.json", {"params": "many"}),
        ("summary.json", {"data": "mine"}),
        ("summary.json", {"val_loss": 10**400}),
        ("summary.json", {"val_loss": None}),
        ("summary.json", {"params": -1}),
    ],
)
def test_a_damaged_run_is_left_out_and_stops_no_other(file, changes, few):
    run = sorted(few.iterdir())[0]
    edit(run, file, **changes)
    study = gather([few])
    assert len(study.used) == 3 and any(f"left out: {run.name}: " in notice for notice in study.notices)


@pytest.mark.parametrize(
    "changes",
    [
        {"kv_bytes_per_token": -5},
        {"flops": float("nan")},
        {"code_commit": {"a": 1}},
        {"versions": {"torch": float("nan")}},
    ],
)
def test_odd_numbers_beside_the_loss_break_nothing(changes, few):
    edit(sorted(few.iterdir())[0], **changes)
    study = gather([few])
    assert len(study.used) == 4
    json.dumps(compare_study(study), allow_nan=False)


def test_a_run_that_is_left_out_keeps_its_learning_rate_in_its_name(few, tmp_path):
    """One that failed at a higher rate is none of the usual ones."""
    for run in few.glob("mfa-*"):
        other = shutil.copytree(run, tmp_path / "tuned" / run.name)
        text = (other / "config.yaml").read_text()
        (other / "config.yaml").write_text(text.replace("\n  lr: 0.004", "\n  lr: 0.016"))
        if run.name.endswith("seed1"):
            edit(other, status="failed")
    study = gather([few, tmp_path / "tuned"])
    assert {run.variant for run in study.runs if run.excluded} == {"mfa lr×4"}


@pytest.mark.parametrize(
    "text, line",
    [
        ("", "empty; expected a header"),
        ("N,D\n1e9,1e10\n", "no column of loss"),
        ("N,loss\n1e9,3\n", "no column of tokens"),
        ("N,D,loss\n1e9,1e10,three\n", "points.csv:2: loss is 'three', expected a number"),
    ],
)
def test_a_file_that_is_no_table_of_points_is_refused(text, line, tmp_path):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(DataError, match=line.replace("(", r"\(")):
        gather([tmp_path / "points.csv"])


def test_a_number_that_is_none_takes_no_part_and_breaks_nothing(tmp_path):
    (tmp_path / "points.csv").write_text(
        "N,D,loss,C,kv,group\n1e6,2e7,3.5,nan,nan,mha\n1e6,2e7,3.4,-5,64,mfa\nnan,2e7,nan,1e15,64,mfa\n-1,2e7,inf,0,0,mha\n"
    )
    study = gather([tmp_path / "points.csv"])
    assert [(run.flops, run.kv_bytes_per_token) for run in study.used] == [(None, None), (None, 64)]
    assert "left out: points:4: its params is nan, expected a number above 0" in study.notices
    assert any("2 of 2 rows of tables have no seed" in notice for notice in study.notices)
    json.dumps(compare_study(study), allow_nan=False)


def test_different_tokenizers_are_refused_or_compared_per_byte(few):
    run = sorted(few.iterdir())[0]
    summary = json.loads((run / "summary.json").read_text())
    edit(run, data=summary["data"] | {"tokenizer_sha256": "x" * 64, "held_out_sha256": "y" * 64})
    with pytest.raises(DataError, match="2 tokenizers.*type --per-byte"):
        gather([few])
    study = gather([few], per_byte=True)
    assert study.loss_unit == "bits per byte" and all(run.loss == run.bits_per_byte for run in study.used)
    assert any("different tokenizers" in notice for notice in study.notices)


def test_different_held_out_texts_are_refused(few):
    run = sorted(few.iterdir())[0]
    summary = json.loads((run / "summary.json").read_text())
    edit(run, data=summary["data"] | {"held_out_sha256": "y" * 64})
    with pytest.raises(DataError, match="different held-out texts"):
        gather([few], per_byte=True)


def test_variants_are_told_apart_by_what_was_varied(few, tmp_path):
    for run in few.glob("mfa-*"):
        other = tmp_path / "tuned" / run.name
        shutil.copytree(run, other)
        text = (other / "config.yaml").read_text()
        assert "\n  lr: 0.004" in text
        (other / "config.yaml").write_text(text.replace("\n  lr: 0.004", "\n  lr: 0.008"))
    study = gather([few, tmp_path / "tuned"])
    assert list(study.variants()) == ["mfa", "mfa lr×2", "mha"]
    assert list(gather([few, tmp_path / "tuned"], by=("attention.name",)).variants()) == ["mfa", "mha"]
    with pytest.raises(ConfigError, match="Did you mean 'optimizer.lr'"):
        gather([few], by=("optimizer.l",))


def test_runs_at_growing_lengths_are_variants_of_their_own_and_no_pairs_unless_that_is_asked(few, tmp_path):
    schedule = "[{from_tokens: 0, sequence_length: 64}, {from_tokens: 1000000, sequence_length: 256}]"
    key = "training.sequence_schedule"
    for run in few.glob("mfa-*"):
        other = tmp_path / "growing" / run.name
        shutil.copytree(run, other)
        text = (other / "config.yaml").read_text()
        assert "\n  sequence_schedule: null" in text
        (other / "config.yaml").write_text(text.replace("sequence_schedule: null", f"sequence_schedule: {schedule}"))
    names = ["mfa 64, 256 from 1000000", "mfa one length", "mha"]
    study = gather([few, tmp_path / "growing"])
    assert list(study.variants()) == names
    growing, constant, mha = study.variants().values()
    assert {run.order for run in growing}.isdisjoint(run.order for run in constant)
    assert {run.order for run in mha} == {run.order for run in constant}
    assert any(f"({key} differ)" in notice for notice in study.notices)
    asked = gather([few, tmp_path / "growing"], by=(key,)).variants()
    assert len({run.order for runs in asked.values() for run in runs}) == 2  # one for each seed


def test_kv_budgets_are_named_by_their_share_of_mhas_cache(tmp_path):
    """512 bytes at one size and 1,365 at another are one budget; MHA as the reference has none."""
    runs = write_ladder(tmp_path, [VARIANTS[0], VARIANTS[2]], {"4x192": 3.2e6, "6x320": 9.1e6}, (5e7,), (1,))
    twins = [Path(shutil.copytree(run, f"{run}-b")) for run in runs]
    for run in [*runs, *twins]:
        layers, _hidden = map(int, run.name.split("-")[1].split("x"))
        whole = 4 * layers * 6 * 32
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(
            text.replace("kv_bytes_per_token: null", f"kv_bytes_per_token: {whole // (6 if run in runs else 3)}")
        )
        edit(run, kv_bytes_per_token=whole if run.name.startswith("mha") else whole // 6)
    study = gather([tmp_path])
    assert sorted({run.variant for run in study.used}) == ["mfa 0.167 of MHA's KV", "mfa 0.333 of MHA's KV", "mha"]
    assert any("several runs of one variant" in notice and "(mha)" in notice for notice in study.notices)


def test_runs_that_were_changed_since_or_lie_deeper_are_said(few, tmp_path):
    for run in few.glob("mha-*"):
        (run / "config.yaml").write_text((run / "config.yaml").read_text() + "# edited\n")
    shutil.copytree(few, few / "deeper")
    (few / "empty").mkdir()
    (few / "empty" / "config.yaml").write_text("")
    notices = gather([few]).notices
    assert any(
        "is not what the run was trained with" in notice and "mha" in notice and "mfa" not in notice
        for notice in notices
    )
    assert any("folders below it hold runs as well" in notice and "deeper" in notice for notice in notices)
    assert any("left out: empty: cannot be read (config.yaml: no keys" in notice for notice in notices)


def test_a_ladder_and_the_one_that_varies_it_are_compared_together(tmp_path):
    """Rates differ from size to size in a ladder; a variant's is a multiple of them."""
    members = [
        member
        for sweep in ("nano", "nano_causes")
        for member in ladder.members([f"sweep={sweep}", "attention=mla", "seed=1"], lambda _: None)
    ]
    members += ladder.members(["sweep=nano", "attention=mha", "seed=1"], lambda _: None)
    members += ladder.members(["sweep=nano_mla", "seed=1"], lambda _: None)
    for member in members:
        attention, config = member.config.attention["name"], member.config
        tree = yaml.safe_load(configs.to_yaml(config))
        tokens = config.training.total_steps * config.training.batch_size * 256
        cache = Variant(attention, NANO, 1.0 if attention == "mha" else 0.2)
        write_run(tmp_path / f"{attention}{len(list(tmp_path.iterdir()))}", tree, cache, 3e5, tokens, 3.0)
    variants = gather([tmp_path]).variants()
    quarter, eighth = "mla 0.25 of MHA's KV", "mla 0.125 of MHA's KV"
    assert [name for name in variants if name.startswith("mla")] == sorted(
        [
            eighth,
            f"{eighth} q_lora_rank=None",
            quarter,
            f"{quarter} lr×0.5",
            f"{quarter} lr×2",
            f"{quarter} method=zero_output",
            f"{quarter} q_lora_rank=None",
        ]
    )
    assert len(variants[quarter]) == 9 and len(variants["mha"]) == 9
    assert compare_study(gather([tmp_path]))["reference"] == "mha"
    assert compare_study(gather([tmp_path]), reference="mla 0.25×KV lr×2")["reference"] == f"{quarter} lr×2"
