"""Runs on mixtures, and on corpora in object storage."""

import json
import signal
import sysconfig
from pathlib import Path

import fsspec
import pytest

from mfa_train import config as configs
from mfa_train.data.preparing.prepare import prepare
from tests.data.corpora import random_texts, write
from tests.end_to_end.conftest import COMMON, metrics


@pytest.fixture(scope="module")
def mixture(prepared_data, tmp_path_factory):
    """Overrides that mix the embedded corpus with another of the same tokenizer, which is the folder's only other."""
    folder = tmp_path_factory.mktemp("mixture")
    code = next(path for path in prepared_data.iterdir() if path.is_dir() and path.name.startswith("python_stdlib"))
    write(folder, "words.jsonl", random_texts(300))
    words = prepare(
        configs.load(
            [
                "data=files",
                f"data_dir={folder}",
                f"data.files=[{folder}/words.jsonl]",
                "data.shard_bytes=20000",
                f"data.tokenizer={code}/tokenizer.model",
                "data.held_out_fraction=0.2",
            ]
        ).data,
        lambda message: None,
    )
    return folder, {"code": str(code), "words": words.path}


def overrides(corpora: dict[str, str]) -> list[str]:
    return [
        "data=mixture",
        f"data.corpora={{{', '.join(f'{name}: {path}' for name, path in corpora.items())}}}",
        "data.weights={code: 1, words: 3}",
        "data.lanes=4",
        "training.batch_size=8",
        "name=mixed",
    ]


def test_a_mixture_counts_what_it_reads_and_is_evaluated_on_each_corpus(mixture, train, tmp_path):
    done = train(*overrides(mixture[1]))
    assert done.returncode == 0, done.stderr
    last = metrics(tmp_path / "mixed")[-1]
    assert (last["data/tokens/code"], last["data/tokens/words"]) == (20 * 2 * 64, 20 * 6 * 64)
    assert last["data/epochs/words"] > last["data/epochs/code"] > 0
    # Five held-out sequences, of which one or two are code.
    assert (
        min(last["val/loss/code"], last["val/loss/words"])
        < last["val/loss"]
        < max(last["val/loss/code"], last["val/loss/words"])
    )


def test_a_run_from_object_storage_is_the_run_from_disk_loss_by_loss(mixture, train, tmp_path, monkeypatch):
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    from tests.data.object_storage import ObjectStorage

    folder, corpora = mixture
    here = train(*overrides(corpora), processes=2)
    assert here.returncode == 0, here.stderr
    storage = ObjectStorage()
    for key, value in storage.environment().items():
        monkeypatch.setenv(key, value)
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.mkdir("s3://far")
    for name, path in corpora.items():
        filesystem.put(path, f"s3://far/{name}", recursive=True)
    storage.faults[:] = [None, None, None, None, "500", "reset", "slow", "500"] * 3
    there = train(
        *overrides({name: f"s3://far/{name}" for name in corpora}),
        f"data.cache_dir={folder}/cache",
        "name=far",
        processes=2,
    )
    assert there.returncode == 0, there.stderr
    assert "very-secret" not in there.stdout + there.stderr
    storage.close()
    assert [record["train/loss"] for record in metrics(tmp_path / "far")] == [
        record["train/loss"] for record in metrics(tmp_path / "mixed")
    ]
    assert "very-secret" not in "".join(
        path.read_text(errors="replace") for path in (tmp_path / "far").rglob("*") if path.is_file()
    )


@pytest.mark.long
def test_many_shards_of_jsonl_train_on_2_processes_then_1_then_2_on_one_curve(begin, train, tmp_path):
    """Python sources of this environment, a document each. The reference is the same run, never stopped."""
    size = 0
    with open(tmp_path / "sources.jsonl", "w", encoding="utf-8") as file:
        for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
            if size < 6_000_000 and "\0" not in (text := path.read_text(encoding="utf-8", errors="ignore")):
                size += file.write(json.dumps({"text": text}) + "\n")
    assert (tmp_path / "sources.jsonl").stat().st_size >= 6_000_000
    run = [
        "data=files",
        f"data.files=[{tmp_path}/sources.jsonl]",
        f"data_dir={tmp_path}",
        "data.tokenizer_bytes=1000000",
        "data.shard_bytes=500000",
        *COMMON,
        "training.steps=90",
    ]
    undisturbed = train(*run, "name=undisturbed", processes=2)
    assert undisturbed.returncode == 0, undisturbed.stderr
    for processes in (2, 1):
        stopped = begin(*run, processes=processes)
        stopped.send_signal(signal.SIGTERM)
        output, errors = stopped.communicate(timeout=120)
        assert "stopped: SIGTERM" in errors, output + errors
    output, errors = begin(*run, processes=2).communicate(timeout=120)
    assert "goes on from" in output, errors
    losses = [[record["train/loss"] for record in metrics(tmp_path / name)] for name in ("run", "undisturbed")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
