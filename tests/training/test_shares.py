"""What each rank reads of a checkpoint, however many wrote it."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mfa_train.checkpoints import folders as files
from mfa_train.checkpoints import tensor_files
from mfa_train.checkpoints.manifest import manifest_of
from mfa_train.checkpoints.tensor_files import KINDS, CheckpointReader, Piece
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.resuming.agreement import find_verified
from tests.training.checkpoints import CONFIG, DATA, VALUES, content_of, flipped, save


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
    begun = time.process_time()
    reader = CheckpointReader(checkpoint, manifest_of(checkpoint))
    rank = world_size // 2 + 1
    own = {name: shares(length, world_size)[rank] for name, length in lengths.items()}
    opened = {file for name, (start, stop) in own.items() for file, _, _ in reader.where(name, start, stop)}
    assert time.process_time() - begun < 2
    assert len(opened) <= wrote // world_size + 6 and rank * wrote // world_size in opened


def test_a_file_whose_pieces_are_read_one_after_the_other_is_opened_once_and_closed_in_the_end(tmp_path, monkeypatch):
    checkpoint = save(tmp_path / "checkpoints", 2, (0, 4, 10))
    opened, really = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *flags, **kept: opened.append(path) or really(path, *flags, **kept))
    before = len(os.listdir("/proc/self/fd"))
    for keep, most in ((2, 4), (1, 10), (0, 10)):  # the header of each is read at first
        opened.clear()
        reader = CheckpointReader(checkpoint, manifest_of(checkpoint), keep=keep)
        for kind, values in VALUES.items():
            reader.read(kind, "w", 1, out := torch.empty(8))
            assert out.equal(values[1:9])
        assert len([path for path in opened if str(path).endswith(".safetensors")]) <= most
        assert len(os.listdir("/proc/self/fd")) == before + keep
        del reader
    assert len(os.listdir("/proc/self/fd")) == before


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
