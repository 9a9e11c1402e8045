"""A checkpoint's files, damaged one by one; what goes on from them, and what is told."""

import dataclasses

import pytest

from mfa_train.checkpoints import folders as files
from mfa_train.errors import ConfigError, DataError
from mfa_train.training.resuming.resume_point import find_resume_point
from tests.training.checkpoints import CONFIG, DATA, cut_off, emptied, flipped, found, save


@pytest.mark.parametrize(
    "damage", [cut_off, flipped, emptied, lambda path: path.unlink()], ids=["cut off", "flipped", "emptied", "deleted"]
)
@pytest.mark.parametrize("name", ["rank-00000.safetensors", "rank-00001.safetensors", "manifest.json"])
def test_a_damaged_file_is_named_and_the_newest_whole_checkpoint_taken(name, damage, tmp_path):
    save(tmp_path / "checkpoints", 4)
    damage(save(tmp_path / "checkpoints", 8) / name)
    said = []
    start = found(tmp_path, said.append)
    assert start.content["step"] == 4 and [path.name for path in start.damaged] == ["step-00000008"]
    assert "step-00000008 is damaged" in said[0] and name in said[0] and "step-00000004 is whole" in said[1]


def test_every_single_byte_of_a_manifest_counts(tmp_path):
    path = save(tmp_path / "checkpoints", 4) / "manifest.json"
    good = path.read_bytes()
    whole = files.verified(path.parent)
    for place in range(0, len(good), 29):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            assert files.verified(path.parent) == whole  # blank space that stays blank says the same
        except files.Damaged:
            pass


def test_without_a_whole_checkpoint_nothing_starts_from_scratch_unasked(tmp_path):
    cut_off(save(tmp_path / "checkpoints", 4) / "manifest.json")
    with pytest.raises(DataError, match="no checkpoint is whole; type resume=never"):
        found(tmp_path)
    assert found(tmp_path, resume="never") is None


def test_what_changes_model_or_data_is_refused_and_what_may_change_is_told(tmp_path):
    save(tmp_path / "checkpoints", 4)
    with pytest.raises(ConfigError, match=r"step-00000004 is of another model or other data \(seed: 1 -> 2\)"):
        found(tmp_path, seed=2)
    with pytest.raises(ConfigError, match="data tokenizer: t -> other"):
        find_resume_point(CONFIG, tmp_path, DATA | {"tokenizer": "other"}, print)
    with pytest.raises(ConfigError, match="training.steps=3: .* is further already; type training.steps=4 or more"):
        found(tmp_path, training=dataclasses.replace(CONFIG.training, steps=3))
    with pytest.raises(ConfigError, match="resume=must: there is no checkpoint"):
        found(tmp_path / "elsewhere", resume="must")
    with pytest.raises(ConfigError, match="resume=nevr: expected auto, must, never, or a folder"):
        found(tmp_path / "elsewhere", resume="nevr")
    start = found(tmp_path, zero=3, optimizer=dataclasses.replace(CONFIG.optimizer, lr=0.5), runs_dir="elsewhere")
    assert start.accepted == ["optimizer.lr: 0.004 -> 0.5", "zero: 1 -> 3", "processes: 2 -> 1"]


def test_a_run_goes_on_from_its_newest_checkpoint_and_not_silently_from_another(tmp_path):
    older, newest = save(tmp_path / "checkpoints", 1), save(tmp_path / "checkpoints", 2)
    for not_newest in (older, tmp_path / "checkpoints" / "step-00000007", tmp_path / "checkpoints" / "final"):
        said = []
        assert found(tmp_path, said.append, resume=str(not_newest)).checkpoint == newest
        assert "this run is at step-00000002 already" in said[0] and "name=… for a run of its own" in said[0]
    assert found(tmp_path, resume=str(newest)).checkpoint == newest
    assert found(tmp_path, resume="another/checkpoints/step-00000001").checkpoint == newest  # its own go first
    cut_off(newest / "manifest.json")
    assert found(tmp_path, resume=str(older)).checkpoint == older
    assert found(tmp_path, resume=str(newest)).checkpoint == older  # said aloud, as without resume
