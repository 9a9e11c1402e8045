"""What becomes of a save, beside the steps and when it fails, and which checkpoints stay."""

import dataclasses

import pytest
import torch

from benchmarks.standstill import standstill
from mfa_train.checkpoints import folders as files
from mfa_train.checkpoints.tensor_files import RNG, write_pieces
from mfa_train.tracking.run_log import SilentLog
from mfa_train.training.processes.ranks import join
from mfa_train.training.processes.signals import StopSignals
from mfa_train.training.saving.rng import rng_state, set_rng_state
from mfa_train.training.saving.save_points import SavePoints
from mfa_train.training.saving.writer import CheckpointWriter
from mfa_train.training.steps.guard import Guard
from mfa_train.training.steps.state import Progress, TrainingState
from tests.training.checkpoints import CONFIG, content_of, cut_off, save


def test_other_threads_run_while_a_file_is_written(tmp_path):
    """safetensors 0.7 held them up for a fifth of the time or more (benchmarks/standstill.py --mebibytes 64)."""
    tensors = {"master:w:0": torch.zeros(2**24)}
    measured = (standstill(lambda: write_pieces(tmp_path, 0, tensors)) for _ in range(5))
    assert any(longest < seconds / 10 for longest, seconds in measured)


def test_the_last_n_and_every_mth_stay(tmp_path):
    for step in (2, 4, 6, 8, 10):
        save(tmp_path, step)
    files.prune(tmp_path, keep_last=2, keep_every=4)
    assert [path.name for path in files.newest_first(tmp_path)] == ["step-00000010", "step-00000008", "step-00000004"]


def test_a_damaged_checkpoint_pushes_no_whole_one_out(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    cut_off(next((tmp_path / "step-00000003").glob("rank-*")))
    (tmp_path / "step-00000004" / "manifest.json").unlink()
    files.prune(tmp_path, 2, None, at_steps=[])
    assert [files.step_of(path) for path in files.newest_first(tmp_path)] == [4, 3, 2, 1]
    save(tmp_path, 5)
    save(tmp_path, 6)
    files.prune(tmp_path, 2, None, at_steps=[1])
    assert [files.step_of(path) for path in files.newest_first(tmp_path)] == [6, 5, 1]


def test_what_goes_wrong_while_saving_is_not_lost(tmp_path, monkeypatch):
    """A full disk is told and costs a checkpoint; anything else ends the run at the next save."""
    said = []
    ranks = dataclasses.replace(join())
    monkeypatch.setattr(type(ranks), "say", lambda self, message: said.append(message))
    writer = CheckpointWriter(CONFIG.checkpoint, tmp_path, 0, ranks, 10)
    monkeypatch.setattr(writer, "_copied", lambda engine: {RNG: rng_state()})
    monkeypatch.setattr("mfa_train.training.saving.writer.updates", lambda engine: 0)
    for failure in (OSError(28, "No space left on device"), TypeError("a bug")):

        def fail(*_, failure=failure):
            raise failure

        monkeypatch.setattr("mfa_train.training.saving.writer.write_pieces", fail)
        writer.save(None, 1, {})
        if isinstance(failure, OSError):
            writer.wait()
    assert "No space left on device" in said[0] and "the run goes on" in said[0]
    with pytest.raises(TypeError, match="a bug"):
        writer.wait()


def test_an_older_checkpoint_that_stays_in_the_way_fails_no_save(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(type(join()), "say", lambda self, message: said.append(message))
    writer = CheckpointWriter(dataclasses.replace(CONFIG.checkpoint, keep_last=1), tmp_path, 0, join(), 10)
    monkeypatch.setattr(writer, "_copied", lambda engine: {RNG: rng_state()})
    monkeypatch.setattr("mfa_train.training.saving.writer.updates", lambda engine: 0)
    remove_tree = files.shutil.rmtree

    def stuck(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(16, "Device or resource busy", str(path))
        remove_tree(path, ignore_errors)

    monkeypatch.setattr(files.shutil, "rmtree", stuck)
    for step in (1, 2):
        writer.save(None, step, content_of(step))
        writer.wait()
    assert [path.name for path in files.newest_first(tmp_path)] == ["step-00000002"]
    assert files.verified(tmp_path / "step-00000002")
    assert len(said) == 1 and "an older checkpoint could not be removed" in said[0] and "step-00000001" in said[0]


def test_a_record_tells_how_long_saves_took_that_have_come_to_their_end_and_how_long_steps_stood_still_for_them(
    tmp_path, monkeypatch
):
    config = dataclasses.replace(CONFIG, runs_dir=str(tmp_path))
    points = SavePoints(config, join(), 0, {}, SilentLog(), StopSignals(), None)
    monkeypatch.setattr(points.writer, "_copied", lambda engine: {RNG: rng_state()})
    monkeypatch.setattr("mfa_train.training.saving.writer.updates", lambda engine: 0)
    for step in (1, 2):
        points.save(None, TrainingState(Progress(step), Guard(CONFIG.guard, print)))
        points.finish()
    told = points.told()
    assert 0 < told["checkpoint/blocking_seconds"] < 10 and 0 < told["time/save_seconds"] < 10
    assert points.told() == {}


def test_random_generators_go_on_where_they_were():
    import random

    import numpy as np

    def draw():
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item()

    state = rng_state()
    first = draw()
    set_rng_state(state)
    assert draw() == first
