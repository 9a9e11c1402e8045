"""Processes that don't outlive the one that started them, however that ends."""

import ctypes
import os
import signal
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that comes when the parent is gone."""
_prctl = ctypes.CDLL(None).prctl


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def dies_with(parent: int) -> Callable[[], None]:
    """What a child of process `parent` does before it is another program (`preexec_fn`)."""

    def before_exec() -> None:
        die_with_parent()
        if os.getppid() != parent:  # it ended before
            os._exit(1)

    return before_exec
