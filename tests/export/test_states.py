"""Any state of a run is exported: of one that is finished, running or killed, whatever the ranks that wrote it."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from benchmarks.exporting import STEP, made_up, peak_bytes
from mfa_train import config as configs
from mfa_train.checkpoints.folders import newest_first
from mfa_train.checkpoints.safetensors_folder import FILE, divided, write_index
from mfa_train.checkpoints.streamed import TensorFile, write_mixed
from mfa_train.checkpoints.weights import final_checkpoint, record_sums
from mfa_train.errors import ConfigError, DataError
from mfa_train.export.export import export
from tests.conftest import ROOT, SMALL
from tests.data.corpora import opened


def weights_in(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def test_what_two_ranks_trained_under_zero_3_is_exported_to_the_byte_as_what_one_rank_holds(train, tmp_path):
    both = ["attention=gqa", "precision=bf16", "schedule.warmup_steps=1", "training.ema=0.9"]
    two = ["name=two", "zero=3", "training.steps=4", "checkpoint.every_steps=2"]
    done = train(*both, *two, processes=2)
    assert done.returncode == 0, done.stderr
    of_two = tmp_path / "two" / "checkpoints" / "step-00000004"
    # One more step, by one rank and too small to change a float: the same masters, written by fewer ranks.
    alone = ["name=one", f"resume={of_two}", "zero=0", "training.steps=5", "optimizer.lr=1e-30"]
    done = train(*both, *alone)
    assert done.returncode == 0, done.stderr

    said = [
        export(tmp_path / "two", tmp_path / "a", "step-4", verify=True),
        export(tmp_path / "one", tmp_path / "b", "step-5"),
        export(tmp_path / "two", tmp_path / "final"),
        export(tmp_path / "two", tmp_path / "earlier", "step-2"),
        export(tmp_path / "two", tmp_path / "cut", "step-4", shard_bytes=100_000),
        export(tmp_path / "two", tmp_path / "masters of two", "step-4", dtype="fp32"),
        export(tmp_path / "one", tmp_path / "masters of one", "step-5", dtype="fp32"),
        export(tmp_path / "two", tmp_path / "widened", dtype="fp32"),
    ]
    assert "the weights after step 4" in said[0] and "the weights after step 2" in said[3]
    assert weights_in(tmp_path / "a") == weights_in(tmp_path / "b") == weights_in(tmp_path / "final")
    assert weights_in(tmp_path / "a") != weights_in(tmp_path / "earlier")
    assert weights_in(tmp_path / "masters of two") == weights_in(tmp_path / "masters of one")
    assert weights_in(tmp_path / "masters of two") != weights_in(tmp_path / "widened")  # of what was rounded
    said = [
        export(tmp_path / "two", checkpoint="final-ema", verify=True),
        export(tmp_path / "two", checkpoint="step-4-ema"),
        export(tmp_path / "one", checkpoint="step-5-ema"),  # which averages the same weights once more
    ]
    averaged = [tmp_path / "two" / "export-ema", tmp_path / "two" / "export-step-4-ema"]
    assert "export-ema: the averaged weights after step 4" in said[0]
    assert weights_in(averaged[0]) == weights_in(averaged[1])
    others = [tmp_path / "a", tmp_path / "one" / "export-step-5-ema"]
    assert len({weights_in(folder) for folder in (averaged[0], *others)}) == 3
    export(tmp_path / "two", tmp_path / "verified", verify=True)
    assert weights_in(tmp_path / "verified") == weights_in(tmp_path / "final")
    final = tmp_path / "two" / "checkpoints" / "final" / "model.safetensors"
    final.write_bytes((content := final.read_bytes())[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match="differs from its checksum; type --checkpoint step-00000004"):
        export(tmp_path / "two", tmp_path / "damaged", verify=True)
    final.write_bytes(content)
    cut_short = tmp_path / "two" / "checkpoints" / "final-ema" / "model.safetensors"
    cut_short.write_bytes(cut_short.read_bytes()[:-1])
    with pytest.raises(DataError, match="final-ema: the weights cannot be read .*; type --checkpoint step-00000004"):
        export(tmp_path / "two", tmp_path / "damaged", "final-ema")
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)

    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    whole, cut = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("a", "cut"))
    assert index["metadata"]["total_size"] == 2 * sum(weight.numel() for weight in whole.state_dict().values())
    sizes = {file: (tmp_path / "cut" / file).stat().st_size for file in set(index["weight_map"].values())}
    assert len(sizes) > 3 and {path.name for path in (tmp_path / "cut").glob("*.safetensors")} == set(sizes)
    for file, size in sizes.items():
        alone = list(index["weight_map"].values()).count(file) == 1
        assert size < 100_000 + 4_096 or alone  # the header counts for none
    x = torch.arange(40)[None]
    with torch.no_grad():
        assert whole(x).logits.equal(cut(x).logits)
    losses = {
        record["step"]: record.get("val/loss")
        for record in map(json.loads, (tmp_path / "two" / "metrics.jsonl").read_text().splitlines())
    }
    card = (tmp_path / "a" / "README.md").read_text()
    assert f"| held-out loss | {losses[4]:.4f} nats per token" in card and str(tmp_path) not in card
    record = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[-1])
    card = (averaged[0] / "README.md").read_text()
    assert record["val_ema/loss"] != record["val/loss"] and "moving average (`training.ema=0.9`)" in card
    assert f"| held-out loss | {record['val_ema/loss']:.4f} nats per token" in card
    assert "| held-out loss | not evaluated at this step |" in (tmp_path / "earlier" / "README.md").read_text()


def test_a_run_is_exported_while_it_goes_on_and_after_it_was_killed(begin, tmp_path):
    process = begin("attention=gqa", "training.steps=100000", "checkpoint.every_steps=5", "checkpoint.keep_last=2")
    run, deadline = tmp_path / "run", time.monotonic() + 100
    while not newest_first(run / "checkpoints"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    try:
        export(run, tmp_path / "running", newest_first(run / "checkpoints")[0].name)
    except ConfigError as error:  # this run trains 5 steps faster than a busy machine exports
        assert "the run removed it while it was read" in str(error) and not (tmp_path / "running").exists()
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = newest_first(run / "checkpoints")[0].name
    with pytest.raises(ConfigError, match=f"has not finished; type --checkpoint {newest}"):
        export(run, tmp_path / "killed")
    export(run, tmp_path / "killed", newest, dtype="bf16")
    with safe_open(tmp_path / "killed" / "model.safetensors", framework="pt") as exported:
        assert {exported.get_slice(name).get_dtype() for name in exported.keys()} == {"BF16"}  # noqa: SIM118
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "running", "killed"}


@pytest.fixture
def state(tmp_path, prepared_data):
    """`state(*overrides)`: the folder of a run with one checkpoint, that three ranks wrote."""

    def make(*overrides: str) -> Path:
        config = configs.load(["attention=gqa", f"data_dir={prepared_data}", "name=run", *overrides])
        made_up(tmp_path / "run", config, opened(config.data.path).tokenizer, ranks=3)
        return tmp_path / "run"

    return make


def test_an_export_holds_one_tensor_in_memory_and_not_the_model(state, tmp_path):
    """Of 192 MiB of masters and twice that of moments."""
    wide = ["hidden_size=1024", "num_hidden_layers=1", "intermediate_size=4096", "vocab_size=16384", "head_dim=64"]
    run = state(*(f"model.{key}" for key in wide), "model.num_attention_heads=16", "model.num_key_value_heads=16")
    export(run, tmp_path / "first", f"step-{STEP}", dtype="fp32")  # what libraries need once
    peak = peak_bytes(lambda: export(run, tmp_path / "out", f"step-{STEP}", dtype="fp32"))
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 190 * 2**20
    assert peak < 1.3 * 64 * 2**20 + 2**25  # of the embedding


def test_checksums_are_held_where_that_is_asked_for(state, tmp_path):
    run = state(*SMALL)
    with pytest.raises(ConfigError, match=r"rank-0000\d.safetensors differs from its checksum"):
        export(run, tmp_path / "out", f"step-{STEP}", verify=True)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    export(run, tmp_path / "out", f"step-{STEP}")


def test_a_checkpoint_that_its_run_removes_or_writes_anew_meanwhile_leaves_nothing_behind(state, tmp_path, monkeypatch):
    run = state(*SMALL)
    checkpoint = run / "checkpoints" / f"step-{STEP:08d}"
    kept = shutil.copytree(checkpoint, tmp_path / "kept")
    read = TensorFile.read

    def remove(*arguments) -> None:
        shutil.rmtree(checkpoint, ignore_errors=True)
        return read(*arguments)

    def replace(*arguments) -> None:
        shutil.rmtree(checkpoint)
        shutil.copytree(kept, checkpoint)
        return read(*arguments)

    monkeypatch.setattr(TensorFile, "read", replace)
    with pytest.raises(DataError, match="is another file than when it was opened"):
        export(run, tmp_path / "out", f"step-{STEP}")
    monkeypatch.setattr(TensorFile, "read", remove)
    with pytest.raises(ConfigError, match=f"step-{STEP:08d}: the run removed it while it was read"):
        export(run, tmp_path / "out", f"step-{STEP}")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "kept"}


def test_final_weights_in_several_files_are_read_as_one_and_each_is_held_against_its_checksum(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(ROOT / "tests/first_round/runs/mfa", run)
    export(run, tmp_path / "one")
    final = final_checkpoint(run)
    file = TensorFile(final / FILE)
    shapes = {name: placed.shape for name, placed in file.tensors.items()}
    values = {name: file.tensor(name, torch.float32) for name in shapes}
    (final / FILE).unlink()
    parts = divided(shapes, torch.float32, 30_000)
    written = {
        name: write_mixed(
            final / name, {key: (torch.float32, shape) for key, shape in part.items()}, values.__getitem__
        )
        for name, part in parts.items()
    }
    write_index(final, parts, torch.float32)
    record_sums(final, written)
    export(run, tmp_path / "several", verify=True)
    assert len(parts) > 3 and weights_in(tmp_path / "several") == weights_in(tmp_path / "one")
    last = final / list(parts)[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ConfigError, match=f"{last.name} differs from its checksum"):
        export(run, tmp_path / "again", verify=True)
    last.unlink()
    with pytest.raises(DataError, match=f"the weights cannot be read .*{last.name}.*, which is not there"):
        export(run, tmp_path / "again")
