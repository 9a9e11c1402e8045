"""A run folder whose files are damaged, are something else, or meet a full disk."""

import dataclasses
import errno
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.tracking.metrics_file import read_metrics
from mfa_train.tracking.starts import add_start, starts
from mfa_train.training.resuming.resume_point import ResumePoint
from mfa_train.training.run_folder.closing import closing_table
from mfa_train.training.run_folder.folder import FILES, RunFolder
from mfa_train.training.run_folder.lock import RunLock
from tests.conftest import ROOT, SMALL

CONFIG = configs.load([*SMALL, "name=run", "training.steps=10", "schedule.warmup_steps=1"])
LONGER = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, steps=20))


def folder_in(runs_dir, config=CONFIG) -> RunFolder:
    return RunFolder(dataclasses.replace(config, runs_dir=str(runs_dir)))


@pytest.fixture
def finished(tmp_path):
    """A finished run with a checkpoint, its files under no lock."""
    folder = folder_in(tmp_path)
    folder.create({"time": {"mfu": 0.5}}, None)
    (folder.path / "checkpoints" / "step-00000010").mkdir(parents=True)
    (folder.path / "checkpoints" / "final").mkdir()
    (folder.path / "metrics.jsonl").write_text('{"step": 10}\n')
    folder.close({"status": "finished", "params": 7})
    folder.lock.release()
    return folder.path


@pytest.mark.parametrize(
    "damaged", [b"", b"\0" * 400, b'{"status": "fin', b'{"status": [3]}', b"[1]", b"\xff", b"[" * 10**5]
)
def test_a_damaged_summary_is_told_set_aside_and_written_anew_where_the_run_goes_on(
    damaged, finished, tmp_path, capsys
):
    (finished / "summary.json").write_bytes(damaged)
    folder = folder_in(tmp_path)
    assert folder.open() is None
    folder.create({}, None)
    assert (finished / "summary.json.damaged").read_bytes() == damaged and not (finished / "summary.json").exists()
    assert "summary.json is damaged: set aside as summary.json.damaged" in capsys.readouterr().out
    folder.lock.release()


@pytest.mark.parametrize(
    "config, damaged, told",
    [(CONFIG, True, "has final weights but no summary.json that says so"), (LONGER, False, "run is finished")],
)
def test_a_finished_run_without_a_checkpoint_is_never_trained_over(config, damaged, told, finished, tmp_path):
    (finished / "checkpoints" / "step-00000010").rmdir()
    if damaged:
        (finished / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match=f"{told}, and there is no checkpoint to go on from; type name=…"):
        folder_in(tmp_path, config).open()


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"status": "finished"},
        {"params": "many", "val_loss": float("nan"), "tokens": [1], "seconds": None, "attention": None},
    ],
)
def test_a_summary_that_lacks_numbers_is_told_without_them(summary):
    assert "held-out loss           - nats per token" in closing_table(summary)


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_in_a_files_place_is_refused_in_one_line(name, finished, tmp_path):
    (finished / name).unlink(missing_ok=True)
    os.mkfifo(finished / name)
    with pytest.raises(ConfigError, match="is no file; type name=…|holds files that are no run; type name=…"):
        folder_in(tmp_path).open()


def test_a_folders_place_that_is_taken_is_told_in_one_line(finished, tmp_path):
    os.rename(finished / "checkpoints", finished / "elsewhere")
    (finished / "checkpoints").write_text("")
    with pytest.raises(ConfigError, match="checkpoints is no folder; type name=…"):
        folder_in(tmp_path).open()
    os.rename(finished, tmp_path / "elsewhere")
    os.symlink("nowhere", finished)
    with pytest.raises(ConfigError, match="run is no folder; type name=… for a run beside it"):
        folder_in(tmp_path).open()


@pytest.mark.parametrize("refused", ["config.yaml", "plan.json", "metrics.jsonl"])
def test_a_disk_that_is_full_at_any_write_leaves_what_was_there(refused, finished, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    (other / "metrics.jsonl").write_text('{"step": 1}\n')
    start = ResumePoint(other / "checkpoints" / "step-00000001", {"step": 1}, [], [])
    written = RunFolder._written

    def full(self, name, parts):
        if name == refused:
            (self.path / f"{name}.partial").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(self, name, parts)

    folder = folder_in(tmp_path, LONGER)
    assert folder.open() is None
    with monkeypatch.context() as patched, pytest.raises(ConfigError, match="No space left.*; type runs_dir=FOLDER"):
        patched.setattr(RunFolder, "_written", full)
        folder.create({}, start)
    folder.lock.release()
    assert {name: (finished / name).read_bytes() for name in before} | {"run.lock": b""} == before | {"run.lock": b""}


def test_a_branch_begins_with_the_sound_records_of_the_run_it_leaves(tmp_path, capsys):
    theirs = tmp_path / "theirs"
    (theirs / "checkpoints").mkdir(parents=True)
    (theirs / "metrics.jsonl").write_text(
        '{"step": 1}\n{"step": 2}\nnonsense\n{"step": 3}{"step": 4}\n{"step": 5}\n{"step"'
    )
    folder = folder_in(tmp_path)
    folder.create({}, ResumePoint(theirs / "checkpoints" / "step-00000004", {"step": 4}, [], []))
    folder.lock.release()
    assert (folder.path / "metrics.jsonl").read_text() == "".join(f'{{"step": {step}}}\n' for step in (1, 2, 3, 4))
    assert f"warning: {theirs}/metrics.jsonl: 2 damaged places" in capsys.readouterr().out
    assert len(read_metrics(theirs / "metrics.jsonl")) == 5


def test_a_damaged_start_is_set_aside_and_still_counts_as_one(finished, tmp_path, capsys):
    (finished / "starts.jsonl").write_bytes(b'{"from_step": 0}\n\xff\xff\n{"from_step": 5}\n')
    for _ in range(2):
        folder = folder_in(tmp_path, LONGER)
        assert folder.create({}, None) == 3
        folder.lock.release()
    assert (finished / "starts.jsonl.damaged").read_bytes() == b"\xff\xff\n"
    assert capsys.readouterr().out.count("starts.jsonl: line 2 is damaged: set aside in starts.jsonl.damaged") == 1


def test_numbers_that_are_not_finite_are_null_in_the_runs_json(tmp_path):
    folder = folder_in(tmp_path)
    folder.create({"time": {"run_seconds": float("inf")}}, None)
    folder.close({"status": "failed", "val_loss": float("nan")})
    folder.lock.release()
    assert json.loads((folder.path / "plan.json").read_text()) == {"time": {"run_seconds": None}}
    assert json.loads((folder.path / "summary.json").read_text())["val_loss"] is None


def test_moving_aside_finds_a_free_name_beside_links_that_lead_nowhere(finished, tmp_path):
    os.symlink("nowhere", tmp_path / "run~1")
    folder = folder_in(tmp_path, dataclasses.replace(CONFIG, resume="never"))
    assert folder.open() is None
    folder.move_aside()
    assert (tmp_path / "run~2" / "config.yaml").is_file() and not folder.path.exists()


def test_a_name_that_leaves_no_room_for_a_number_is_refused_in_one_line(tmp_path):
    config = dataclasses.replace(CONFIG, resume="never")
    config.name = "x" * 254  # more than a config takes
    config.runs_dir = str(tmp_path)
    folder = RunFolder(config)
    folder.path.mkdir()
    (folder.path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match="cannot be moved to .*~1 .File name too long.; type name=…"):
        folder.move_aside()


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
