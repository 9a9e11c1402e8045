"""What every door (train.py, `mfa-train`) does with an error: one line for a user's mistake, a traceback for a bug."""

import os
import sys
from collections.abc import Callable

from mfa_train.config import ComposeError, explained, hidden
from mfa_train.errors import Stopped, UserError
from mfa_train.tracking.terminal import open_closed_streams, unbroken


def report(main: Callable[[], object]) -> int:
    """Runs `main`; returns the exit status: 0, a UserError's own (2 for config mistakes, 75 for a run
    that was stopped and goes on later), 130 when interrupted, 141 when nobody reads the output any more."""
    open_closed_streams()
    try:
        main()
        return 0
    except ComposeError as error:
        failure: UserError = explained(error)
    except UserError as error:
        failure = error
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    rank = os.environ.get("RANK", "0")
    if rank == "0" or not failure.everywhere:
        sign = "stopped" if isinstance(failure, Stopped) else "error"
        told = hidden(f"{sign}: {failure}" if rank == "0" else f"rank {rank}: {sign}: {failure}")
        unbroken(sys.stderr, lambda: print(told, file=sys.stderr, flush=True))  # the exit status must be this one's
    return failure.exit_status
