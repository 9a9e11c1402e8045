"""`wandb leet` itself, on a terminal: what it opens with."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from mfa_train.config import TrackingConfig
from mfa_train.tracking.leet import RUNS, STATE, show_losses_first
from mfa_train.tracking.run_log import RunLog

RECORD = {"train/loss": 5.0, "val/loss": 5.1, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 9.0, "mfu": 0.1}


@pytest.fixture
def first_page(tmp_path):
    """`first_page(folder, until)`: what `wandb leet FOLDER` has drawn when `until` is there."""

    def look(folder: Path, until: str) -> str:
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
        leet = subprocess.Popen(
            [Path(sys.executable).with_name("wandb"), "leet", folder],
            stdin=its,
            stdout=its,
            stderr=its,
            env=os.environ | {"TERM": "xterm-256color", "WANDB_CONFIG_DIR": str(tmp_path / "settings")},
            start_new_session=True,
        )
        os.close(its)
        drawn, deadline = b"", time.monotonic() + 60
        try:
            while until.encode() not in drawn and time.monotonic() < deadline:
                if select.select([ours], [], [], 1)[0]:
                    drawn += os.read(ours, 2**16)
        finally:
            os.killpg(leet.pid, signal.SIGKILL)  # the dashboard is a process of its own below it
            leet.wait()
            os.close(ours)
        return drawn.decode(errors="replace")

    return look


def test_it_opens_with_the_losses_of_runs_by_their_names(first_page, tmp_path):
    runs = [tmp_path / "runs" / name for name in ("mha-nano", "mfa-nano")]
    for run in runs:
        run.mkdir(parents=True)
        log = RunLog(TrackingConfig("offline", "p", None, None), run, {}, 2)
        for step in (1, 2):
            log.log(RECORD | {"step": step, "tokens": step, "flops": step, "seconds": step})
        log.close({"status": "finished"})
    drawn = first_page(tmp_path / "runs" / RUNS, "val/loss")
    assert "run-mha-nano.run-" in drawn and "run-mfa-nano.run-" in drawn
    assert "train/loss" in drawn and "[1-2 of 2 filtered from" in drawn
    drawn = first_page(runs[0] / "wandb" / "latest-run", "val/loss")
    assert "mha-nano" in drawn and "train/loss" in drawn and "[1-2 of 2 filtered from" in drawn


def test_a_run_is_listed_once_however_often_it_is_started_and_what_was_looked_at_stays(tmp_path):
    run, links = tmp_path / "runs" / "mfa-nano", tmp_path / "runs" / RUNS
    for started in ("offline-run-20261128_181634-abc", "run-20261129_181634-abc"):
        (run / "wandb" / started).mkdir(parents=True)
        show_losses_first(run, run / "wandb" / started)
        state = json.loads((links / STATE).read_text())
        (links / STATE).write_text(json.dumps(state | {"metrics_filter": {"query": "mine"}}))
        (run / "wandb" / STATE).write_text("mine")
    [link] = [path for path in links.iterdir() if path.is_symlink()]
    assert link.name == "run-mfa-nano.run-20261129_181634-abc" and link.resolve() == run / "wandb" / started
    assert state["selected_runs"] == [link.name] and state["metrics_filter"] == {"query": "mine"}
    assert (run / "wandb" / STATE).read_text() == "mine"
    for path in run.rglob("*run-*"):
        path.rmdir()
    other = tmp_path / "runs" / "mha-nano"
    (other / "wandb").mkdir(parents=True)
    show_losses_first(other, other / "wandb" / "run-20261130_181634-def")
    assert not link.is_symlink()  # its run is gone
