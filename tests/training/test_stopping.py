"""Signals, and the step that all ranks agree on."""

import dataclasses
import signal
import subprocess
import sys

import torch.distributed as dist

from mfa_train.tracking.run_log import SilentLog
from mfa_train.training.processes.agreed_steps import AgreedSteps
from mfa_train.training.processes.ranks import join
from mfa_train.training.processes.signals import StopSignals
from mfa_train.training.saving.save_points import SavePoints
from tests.conftest import ROOT
from tests.training.checkpoints import CONFIG


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
