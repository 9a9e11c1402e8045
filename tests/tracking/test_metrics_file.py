"""metrics.jsonl on a disk that is full, and cut back to a step."""

import errno
import json
import math
import os

import pytest

from mfa_train.tracking.metrics_file import MetricsFile, read_metrics

FULL = OSError(errno.ENOSPC, "No space left on device")


class FullDisk:
    """A file that takes `room` bytes more."""

    def __init__(self, file, room: float = 0):
        self.file, self.room = file, room

    def write(self, content):
        if not self.room:
            raise FULL
        written = self.file.write(content if self.room > len(content) else content[: int(self.room)])
        self.room -= written
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)


def steps(path):
    return [record["step"] for record in read_metrics(path)]


@pytest.mark.parametrize("room", [0, 7, 13], ids=["nothing fits", "half a record fits", "all but its newline fits"])
def test_records_wait_for_room_in_order_and_a_cut_reaches_those_that_wait(room, tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    metrics = MetricsFile(path, say=said.append)
    metrics.log({"step": 1})
    metrics.file = disk = FullDisk(metrics.file, room)
    for step in (2, 3, 4):
        metrics.log({"step": step})
    metrics.flush()
    assert steps(path)[:1] == [1] and len(said) == 1 and "No space left on device" in said[0]
    metrics.cut(2)  # a rollback
    disk.room = math.inf
    metrics.log({"step": 3})
    assert steps(path) == [1, 2, 3] and metrics.logged_to == 4 and len(said) == 1


def test_what_the_disk_refuses_only_when_flushed_is_written_anew(tmp_path, monkeypatch):
    """As NFS does: a write is taken, its data are lost, and fsync tells."""
    path, said = tmp_path / "metrics.jsonl", []
    metrics = MetricsFile(path, say=said.append)
    metrics.log({"step": 1})
    metrics.flush()

    def lost(descriptor):
        path.write_bytes(path.read_bytes()[:14] + b"\0" * (path.stat().st_size - 14))
        raise FULL

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lost)
        for step in (2, 3):
            metrics.log({"step": step})
            metrics.flush()
        metrics.cut(2)
    metrics.log({"step": 3})
    metrics.close()
    assert steps(path) == [1, 2, 3] and len(said) == 1


def test_records_that_never_found_room_are_counted_at_the_end(tmp_path):
    said = []
    metrics = MetricsFile(tmp_path / "metrics.jsonl", say=said.append)
    metrics.file = FullDisk(metrics.file)
    for step in (1, 2):
        metrics.log({"step": step})
    metrics.close()
    assert "lacks the last 2 records" in said[-1]


@pytest.mark.parametrize("from_step, kept", [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_what_lies_behind_the_step_and_a_torn_line_are_cut_off(tmp_path, from_step, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    MetricsFile(path, from_step).log({"step": from_step + 1})
    assert steps(path) == [*kept, from_step + 1]
