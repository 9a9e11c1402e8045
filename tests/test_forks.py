"""The commands of a whole run of the tests are forked, whatever the other tests import and leave behind."""

import os
import subprocess
import sys

from tests.conftest import COMMANDS, ROOT


def forked() -> bool:
    command = [sys.executable, "-m", "mfa_train.cli", "status", "nowhere"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    connected = process._connection is not None
    assert process.wait(timeout=120) == 2
    return connected


def test_a_command_is_forked_where_no_test_has_left_the_environment_another():
    assert forked()
    with COMMANDS.same_environment():
        os.environ["HF_LEFT_BEHIND"] = "1"
        assert not forked()
    assert forked()
