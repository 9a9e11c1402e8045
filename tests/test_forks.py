"""The commands of a whole run of the tests are forked, whatever the other tests import and leave behind."""

import os
import subprocess
import sys

from mfa_train.training.processes.device_kind import CPU, prepare_environment
from tests.conftest import COMMANDS, ROOT


def forked() -> bool:
    command = [sys.executable, "-m", "mfa_train.cli", "status", "nowhere"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    connected = process._connection is not None
    assert process.wait(timeout=120) == 2
    return connected


def test_a_command_is_forked_where_no_test_has_left_the_environment_another():
    assert "lm_eval" not in sys.modules or "HF_XET_HIGH_PERFORMANCE" in os.environ
    assert forked()
    with COMMANDS.same_environment():
        prepare_environment(CPU)
        assert not forked()
    assert forked()
