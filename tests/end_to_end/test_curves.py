"""The curve is the config's alone: not the ZeRO stage's, the processes', the accumulation's, or the day's."""

import json

import pytest

from tests.end_to_end.conftest import metrics

TIMINGS = {"seconds", "tokens_per_second", "mfu"}


def without_timings(record: dict) -> dict:
    return {key: value for key, value in record.items() if key not in TIMINGS}


@pytest.fixture(scope="module")
def reference() -> dict:
    """The first curve of each precision, which the others are held against."""
    return {}


@pytest.mark.parametrize("processes", [None, 2])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_every_stage_and_number_of_processes_gives_one_curve(zero, processes, train, tmp_path, reference):
    done = train(f"zero={zero}", "name=run", processes=processes)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    curve = metrics(tmp_path / "run")
    assert [record["step"] for record in curve] == list(range(1, 21))
    first = reference.setdefault("fp32", curve)
    for ours, theirs in zip(curve, first):
        assert ours.keys() == theirs.keys()
        for key in {"train/loss", "val/loss", "val/bits_per_byte"} & ours.keys():
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("overrides", [
    ["training.micro_batch_size=2", "zero=0"],
    ["training.micro_batch_size=2", "zero=3", "offload=parameters"],
    ["training.activation_checkpointing=true", "offload=optimizer"],
    ["training.compile=true"],
], ids=" ".join)
def test_what_only_saves_memory_or_time_changes_nothing(overrides, train, tmp_path, reference):
    if "fp32" not in reference:
        assert train("name=reference").returncode == 0
        reference["fp32"] = metrics(tmp_path / "reference")
    done = train(*overrides, "name=run")
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(metrics(tmp_path / "run"), reference["fp32"]):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-4)


@pytest.mark.parametrize("zero, processes", [(0, None), (1, None), (2, None), (3, None), (1, 2)])
def test_every_stage_gives_one_curve_in_bf16(zero, processes, train, tmp_path, reference):
    done = train(f"zero={zero}", "name=run", "precision=bf16", "training.micro_batch_size=2", "training.batch_size=12",
                 "optimizer.lr=1e-3", processes=processes)
    assert done.returncode == 0, done.stderr
    curve = metrics(tmp_path / "run")
    first = reference.setdefault("bf16", curve)
    # bf16 rounds to 1/256: curves that differ by less than 1/2000 differ by rounding.
    assert all(a["train/loss"] == pytest.approx(b["train/loss"], rel=5e-4) for a, b in zip(curve, first))
    assert curve[-1]["train/loss"] < curve[0]["train/loss"] - 0.5


@pytest.mark.parametrize("zero", [1, 3])
def test_tied_embeddings_give_one_curve(zero, train, tmp_path, reference):
    done = train(f"zero={zero}", "name=run", "model.tie_word_embeddings=true")
    assert done.returncode == 0, done.stderr
    curve = [record["train/loss"] for record in metrics(tmp_path / "run")]
    assert curve == pytest.approx(reference.setdefault("tied", curve), rel=1e-4)
    assert curve[-1] < curve[0] - 0.5


def test_the_same_command_twice_gives_the_same_metrics(train, tmp_path):
    command = ("attention=mla", "precision=bf16")
    assert train(*command, "name=one").returncode == train(*command, "name=two").returncode == 0
    one, two = ([without_timings(record) for record in metrics(tmp_path / name)] for name in ("one", "two"))
    assert one == two
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two")]
    assert without_timings(summaries[0]) == without_timings(summaries[1])
