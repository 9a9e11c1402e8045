"""metrics.jsonl on a disk that is full, cut back to a step, and damaged in any place."""

import errno
import json
import math
import os
import tracemalloc

import pytest

from mfa_train import config as configs
from mfa_train.tracking import run_log
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


def record(step: int) -> dict:
    """As a run logs it."""
    return {
        "step": step,
        "tokens": 2048 * step,
        "train/loss": 5.25 - step / 64,
        "lr": 6e-05,
        "mfu": None,
        "val/loss": 0.5,
    }


def lines(count: int) -> list[bytes]:
    return [json.dumps(record(10 * number)).encode() + b"\n" for number in range(1, count + 1)]


def resumed(path, content: bytes) -> tuple[list[bytes], bytes, list[str]]:
    """The lines of a metrics.jsonl with that content after a run went on behind it, what was set aside, what was
    said."""
    path.write_bytes(content)
    said: list[str] = []
    MetricsFile(path, 10**9, say=said.append).close()
    aside = path.with_name("metrics.jsonl.damaged")
    damaged = aside.read_bytes() if aside.exists() else b""
    aside.unlink(missing_ok=True)
    return path.read_bytes().splitlines(keepends=True), damaged, said


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_any_flipped_byte_costs_its_own_record_at_most_and_is_told(bit, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a thousand would take their time
    whole = lines(4)
    content = b"".join(whole)
    owner = [number for number, line in enumerate(whole) for _ in line]
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= bit
        kept, damaged, said = resumed(tmp_path / "metrics.jsonl", bytes(flipped))
        others = [line for number, line in enumerate(whole) if number != owner[place]]
        assert [line for line in kept if line in others] == others, place
        if len(kept) < len(whole):  # else the flip made another number that nothing contradicts
            assert len(said) == 1 and f"line {owner[place] + 1} is damaged: set aside in" in said[0], place
            assert damaged.strip(b"\n") in bytes(flipped) and damaged


SECOND = 1
DAMAGE = {
    "a power cut's zeros": lambda line: [bytes(len(line))],
    "zeros without an end": lambda line: [bytes(70_000) + b"\n"],
    "no UTF-8": lambda line: [line.replace(b"train", b"tr\xffin")],
    "a list": lambda line: [b"[1, 2]\n"],
    "a step that is text": lambda line: [line.replace(b'"step": 20', b'"step": "20"')],
    "a step that is no whole number": lambda line: [line.replace(b'"step": 20', b'"step": 20.0')],
    "a step that is true": lambda line: [line.replace(b'"step": 20', b'"step": true')],
    "a step far ahead": lambda line: [line.replace(b'"step": 20', b'"step": 90')],
    "a step below zero": lambda line: [line.replace(b'"step": 20', b'"step": -20')],
    "a number that no reader takes": lambda line: [line.replace(b"20,", b"9" * 5000 + b",", 1)],
    "ten thousand brackets": lambda line: [b"[" * 10_000 + b"\n"],
    "a line of ten megabytes": lambda line: [b'{"step": 20' + b" " * 10**7 + b"}\n"],
    "the begin alone": lambda line: [line[:30] + b"\n"],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_told_set_aside_and_costs_itself_alone(damage, tmp_path):
    whole = lines(5)
    broken = [*whole[:SECOND], *damage(whole[SECOND]), *whole[SECOND + 1 :]]
    kept, damaged, said = resumed(tmp_path / "metrics.jsonl", b"".join(broken))
    assert kept == [*whole[:SECOND], *whole[SECOND + 1 :]] and damaged.strip(b"\n") == broken[SECOND].strip(b"\n")
    assert said == [
        f"warning: {tmp_path}/metrics.jsonl: line 2 is damaged: set aside in metrics.jsonl.damaged; the other 4 "
        "records stay"
    ]


def test_two_records_that_lost_the_newline_between_them_both_stay(tmp_path):
    whole = lines(4)
    assert resumed(tmp_path / "metrics.jsonl", b"".join(whole).replace(whole[1], whole[1][:-1]))[0] == whole
    assert resumed(tmp_path / "metrics.jsonl", b"".join(whole)[:-1])[0] == whole


def test_a_torn_last_line_is_told_where_a_checkpoint_says_that_it_was_whole_once(tmp_path):
    whole, path = lines(4), tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(whole)[:-20])
    said: list[str] = []
    MetricsFile(path, 30, say=said.append).close()  # as a kill behind the checkpoint leaves it
    assert path.read_bytes() == b"".join(whole[:3]) and not said
    kept, damaged, said = resumed(path, b"".join(whole)[:-20])
    assert kept == whole[:3] and damaged == whole[3][:-20] + b"\n" and "line 4 is damaged" in said[0]


def test_steps_that_stand_there_twice_are_kept_once(tmp_path):
    whole = lines(6)
    kept, damaged, said = resumed(tmp_path / "metrics.jsonl", b"".join([*whole[:4], *whole[2:]]))
    assert kept == whole and damaged == b"".join(whole[2:4]) and "lines 3, 4 are damaged" in said[0]


def test_damage_without_room_to_set_it_aside_is_passed_over_where_it_is(tmp_path, monkeypatch):
    path, said, whole = tmp_path / "metrics.jsonl", [], lines(4)
    path.write_bytes(content := b"".join([whole[0], b"nonsense\n", *whole[1:]]))
    with monkeypatch.context() as full:
        full.setattr("mfa_train.tracking.survey._copy", lambda *_: (_ for _ in ()).throw(FULL))
        metrics = MetricsFile(path, 30, say=said.append)
    assert path.read_bytes() == content[: -len(whole[3])] and steps(path) == [10, 20, 30]
    assert (
        len(said) == 1 and "line 2 is damaged: passed over, and left where it is (No space left on device)" in said[0]
    )
    metrics.log(record(35))
    metrics.cut(20)  # a rollback
    assert steps(path) == [10, 20]


def test_a_number_that_is_not_finite_is_null(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.log({"step": 1, "train/loss": math.nan, "parts": [math.inf, {"x": -math.inf}]})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": null, "parts": [null, {"x": null}]}\n'


def test_a_long_history_is_opened_in_little_memory_and_cut_from_its_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(lines(30_000)))
    tracemalloc.start()
    metrics = MetricsFile(path, 299_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 1.5 and metrics.logged_to == 300_000
    assert path.read_bytes().endswith(lines(29_900)[-1])


def test_a_history_is_read_again_for_a_new_run_in_wandb_alone(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines(3)))
    monkeypatch.setattr(run_log, "records", lambda path: pytest.fail("read again, for nobody"))
    log = run_log.RunLog(configs.load(["tracking=none"]).tracking, tmp_path, {}, 100, 20)
    assert log.last_record() == {} and steps(tmp_path / "metrics.jsonl") == [10, 20]  # these tell no seconds
    log.bar.close()
