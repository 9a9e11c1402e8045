"""A checkpoint's files, damaged one by one; what goes on from them, and what is told."""

import dataclasses
import itertools
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from benchmarks.standstill import standstill
from mfa_train import config as configs
from mfa_train.checkpoints import folders as files
from mfa_train.checkpoints import tensor_files
from mfa_train.checkpoints.manifest import manifest_of
from mfa_train.checkpoints.tensor_files import KINDS, RNG, CheckpointReader, Piece, key_of, write_pieces
from mfa_train.errors import ConfigError, DataError
from mfa_train.tracking.run_log import SilentLog
from mfa_train.tracking.starts import add_start, starts
from mfa_train.training.processes.agreed_steps import AgreedSteps
from mfa_train.training.processes.ranks import Ranks, join
from mfa_train.training.processes.signals import StopSignals
from mfa_train.training.resuming.agreement import find_verified
from mfa_train.training.resuming.resume_point import find_resume_point
from mfa_train.training.run_folder.folder import RunFolder
from mfa_train.training.run_folder.lock import RunLock
from mfa_train.training.saving.rng import rng_state, set_rng_state
from mfa_train.training.saving.save_points import SavePoints
from mfa_train.training.saving.writer import CheckpointWriter
from mfa_train.training.steps.state import Progress
from tests.conftest import ROOT, SMALL

CONFIG = configs.load([*SMALL, "name=run"])
DATA = {"tokenizer": "t", "seed": 1}
VALUES = {kind: torch.arange(10.0) + 100 * number for number, kind in enumerate(KINDS)}


def content_of(step: int, config=CONFIG) -> dict:
    """What a manifest holds beside step, updates, processes and files."""
    return {
        "progress": dataclasses.asdict(Progress(step)),
        "guard": {},
        "data": DATA,
        "config": dataclasses.asdict(config),
        "versions": {},
        "wandb": None,
    }


def save(checkpoints, step: int, cuts=(0, 4, 10), config=CONFIG):
    """One parameter `w` of ten values, written by a rank for each stretch between `cuts`."""
    partial, entries = checkpoints / f"step-{step:08d}.partial-0", []
    for rank, (start, stop) in enumerate(itertools.pairwise(cuts)):
        piece = Piece("w", start, {kind: values[start:stop] for kind, values in VALUES.items()})
        entries.append(
            write_pieces(
                partial,
                rank,
                {
                    RNG: rng_state(),
                    **{key_of(kind, piece): piece.tensors[kind].clone() for kind in KINDS},
                },
            )
        )
    checkpoint = files.folder_of(checkpoints, step)
    files.publish(
        partial,
        checkpoint,
        entries,
        {"step": step, "updates": step, "world_size": len(entries)} | content_of(step, config),
    )
    return checkpoint


def found(tmp_path, say=lambda line: None, **changed):
    return find_resume_point(dataclasses.replace(CONFIG, **changed), tmp_path, DATA, say)


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


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


@pytest.mark.parametrize("cuts", [(0, 10), (0, 5, 10), (0, 1, 2, 9, 10)])
def test_a_checkpoint_is_read_by_any_other_number_of_ranks(cuts, tmp_path):
    content = files.verified(checkpoint := save(tmp_path, 4, cuts))
    reader = CheckpointReader(checkpoint, content)
    for start, stop in ((0, 10), (0, 3), (3, 10), (9, 10)):
        piece = Piece("w", start, {kind: torch.full((stop - start,), -1.0) for kind in KINDS})
        reader.fill(piece)
        assert all(torch.equal(piece.tensors[kind], VALUES[kind][start:stop]) for kind in KINDS)
    with pytest.raises(files.Damaged, match="w has 10 values; 0 to 11 are asked for"):
        reader.fill(Piece("w", 0, {kind: torch.zeros(11) for kind in KINDS}))


def shares(length: int, world_size: int) -> list[tuple[int, int]]:
    """What each rank has of a parameter under ZeRO 3."""
    share = -(-length // world_size)
    return [(min(rank * share, length), min((rank + 1) * share, length)) for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [1024, 1000, 8])
def test_a_rank_opens_the_files_that_hold_its_share_however_many_wrote(world_size, tmp_path, monkeypatch):
    """A manifest as 1,024 ranks write it of a model like 7B: 32 layers of nine parameters."""
    wrote = 1024
    lengths = dict.fromkeys((f"layers.{layer}.{name}" for layer in range(32) for name in range(9)), 4096 * 11008)
    lengths |= {f"layers.{layer}.norm.{name}": 4096 for layer in range(32) for name in range(2)}
    placed = {name: shares(length, wrote) for name, length in lengths.items()}
    entry = {"bytes": 0, "sha256": "0" * 64}
    held = [{name: [places[rank]] for name, places in placed.items()} for rank in range(wrote)]
    entries = [{"name": f"rank-{rank:05d}.safetensors", "held": held[rank], **entry} for rank in range(wrote)]
    (tmp_path / "partial").mkdir()
    content = {"step": 4, "updates": 4, "world_size": wrote, **content_of(4)}
    files.publish(tmp_path / "partial", checkpoint := tmp_path / "step-00000004", entries, content)
    assert (checkpoint / "manifest.json").stat().st_size < 30 * wrote * len(lengths)

    monkeypatch.setattr(tensor_files, "TensorFile", lambda path: pytest.fail(f"{path} is opened to plan"))
    begun = time.perf_counter()
    reader = CheckpointReader(checkpoint, manifest_of(checkpoint))
    rank = world_size // 2 + 1
    own = {name: shares(length, world_size)[rank] for name, length in lengths.items()}
    opened = {file for name, (start, stop) in own.items() for file, _, _ in reader.where(name, start, stop)}
    assert time.perf_counter() - begun < 2
    assert len(opened) <= wrote // world_size + 6 and rank * wrote // world_size in opened


def test_a_damaged_share_of_any_rank_is_every_ranks_and_the_one_before_is_taken(tmp_path):
    for step in (2, 4, 6):
        save(tmp_path / "checkpoints", step, (0, 4, 10))
    flipped(tmp_path / "checkpoints" / "step-00000006" / "rank-00001.safetensors")
    flipped(tmp_path / "checkpoints" / "step-00000004" / "rank-00000.safetensors")

    class Rank(Ranks):
        """One of two; the other's word is passed on when both have spoken."""

        def on_rank_zero(self, action):
            return action()

        def gather_objects(self, value):
            word[self.rank] = value
            both.wait(10)
            values = list(word)
            both.wait(10)
            return values

        def say(self, message):
            said[self.rank] += message

    word, said, both = [None, None], ["", ""], threading.Barrier(2)
    built: list[int] = []

    def look(rank: int):
        ranks = Rank(rank, 2, torch.device("cpu"), None)
        return find_verified(CONFIG, tmp_path, DATA, ranks, lambda point: built.append(point.step))

    with ThreadPoolExecutor(2) as threads:
        points = list(threads.map(look, range(2)))
    assert [point.step for point in points] == [2, 2] and built == [6, 6]
    assert said[0] == said[1] and said[0].count("is damaged") == 2 and said[0].count("differs from its checksum") == 2
    assert "step-00000002 is whole" in said[0] and "step-00000004 is whole" not in said[0]


def test_other_threads_run_while_a_file_is_written(tmp_path):
    """safetensors 0.7 held them up for a fifth of the time or more (benchmarks/standstill.py --mebibytes 64)."""
    tensors = {"master:w:0": torch.zeros(2**24)}
    measured = (standstill(lambda: write_pieces(tmp_path, 0, tensors)) for _ in range(5))
    assert any(longest < seconds / 10 for longest, seconds in measured)


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


def test_a_run_that_is_extended_is_not_taken_for_finished_when_it_is_killed(tmp_path):
    config = configs.load([*SMALL, "name=run", f"runs_dir={tmp_path}", "training.steps=10", "schedule.warmup_steps=1"])
    folder = RunFolder(config)
    folder.create({}, None)
    folder.close({"status": "finished"})
    folder.lock.release()
    assert RunFolder(config).open() == {"status": "finished"}
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=20))
    for _ in range(2):  # the second start finds what a kill of the first left
        folder = RunFolder(longer)
        assert folder.open() is None
        folder.create({}, None)
        folder.lock.release()


def test_a_disk_that_is_full_when_a_run_starts_is_told_in_one_line(tmp_path, capsys):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    folder = RunFolder(configs.load([*SMALL, "name=run", f"runs_dir={tmp_path}"]))
    try:
        folder.create({}, None)
        add_start(folder.path, {"wandb": None})
        folder.lock.release()
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "rest").write_bytes(bytes(2**16))
        add_start(folder.path, {"job": "x" * 5000})
        told = r"warning: .*starts.jsonl cannot be written \(No space left on device\)\n"
        assert re.fullmatch(told, capsys.readouterr().out)
        assert folder.open() is None  # nothing is written yet but who holds the lock
        with pytest.raises(ConfigError, match="run cannot be written .No space left.*; type runs_dir=FOLDER with room"):
            folder.create({}, None)
        (tmp_path / "rest").unlink()
        add_start(folder.path, {"wandb": {"id": "one"}})
        assert starts(folder.path) == [{"wandb": None}, {"wandb": {"id": "one"}}]
    finally:
        folder.lock.release()
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_random_generators_go_on_where_they_were():
    import random

    import numpy as np

    def draw():
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(()).item()

    state = rng_state()
    first = draw()
    set_rng_state(state)
    assert draw() == first


def test_a_second_process_is_refused_a_run_folder_and_a_killed_one_leaves_it_free(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom mfa_train.training.run_folder.lock import RunLock\n"
        "RunLock(Path(sys.argv[1])).take()\nprint('held', flush=True)\ntime.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f'another process works in this run folder .*"pid": {holder.pid}'):
        RunLock(tmp_path).take()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    RunLock(tmp_path).take()


def test_a_second_ctrl_c_stops_at_once():
    script = (
        "import time\nfrom mfa_train.training.processes.signals import StopSignals\n"
        "with StopSignals():\n    print('ready', flush=True)\n    while True: time.sleep(0.1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() + process.stderr.readline() == "\nSIGINT: finishing the step, then saving\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_an_order_is_for_the_same_step_on_every_rank():
    ranks = dataclasses.replace(join(), world_size=2)
    first, second = AgreedSteps(ranks), AgreedSteps(ranks)

    def look() -> None:
        first.look(), second.look()

    look()
    assert not first.due("stop-a", 7)
    first.call_for("stop-a", 7)
    second.call_for("stop-a", 8)  # too late: the first counts
    look()
    assert not second.due("stop-a", 7) and first.due("stop-a", 8) and second.due("stop-a", 8)
    first.go_back("stop-a", 3)  # a rollback: what was ordered is not put off until step 8 comes again
    look()
    assert not second.due("stop-a", 3) and second.due("stop-a", 4)
    first.go_back("stop-b", 3)
    assert not second.due("stop-b", 9)


def test_what_was_ordered_for_a_step_that_a_rollback_takes_back_is_done_after_the_next():
    ranks = dataclasses.replace(join(), world_size=2, store=dist.PrefixStore("rolled back", join().store))
    checkpoint = dataclasses.replace(CONFIG.checkpoint, every_steps=None, every_minutes=1e-9)
    config = dataclasses.replace(CONFIG, checkpoint=checkpoint)
    first, second = (SavePoints(config, ranks, 0, {}, SilentLog(), StopSignals(), None) for _ in range(2))
    first.signals.received = "SIGTERM"
    assert not first.due(7) and not second.due(7)  # both are for after step 8, which is poisoned
    first.go_back(4)
    assert first.due(5) and first.stopping and second.due(5) and second.stopping
