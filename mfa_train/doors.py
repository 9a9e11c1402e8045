"""What every door (train.py, `mfa-train`) does with an error: one line for a user's mistake and for a machine's (no
room, no right to), a traceback for a bug."""

import errno
import gc
import os
import re
import sys
from collections.abc import Callable

from mfa_train.config import ComposeError, Config, explained, hidden
from mfa_train.errors import Stopped, UserError
from mfa_train.tracking.terminal import ready_streams, unbroken
from mfa_train.training.processes.device_kind import choose_allocator
from mfa_train.words import in_one_line

ORDINARY = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.EFBIG,
    errno.ETXTBSY,
    errno.EBUSY,
}
"""What files and folders may do to any program."""
LONGEST_LINE, LONGEST_WORD, BEGINNING = 2_000, 1_000, r"[\w.=+~-]{0,80}"


def trainer() -> Callable[[Config], dict]:
    """`mfa_train.training.run.run`, for those who have a config and then end their process: its imports take seconds.
    Where the run ends well its process groups are ended with it."""
    choose_allocator()
    gc.disable()  # they are a million objects that stay, through which it would look again and again
    try:
        import torch._dynamo  # noqa: F401  # the first plan and torch's optimizer import it

        from mfa_train.training.processes.groups import leave
        from mfa_train.training.run import run
    finally:
        gc.enable()

    def train(config: Config) -> dict:
        summary = run(config)
        leave()
        return summary

    return train


def report(main: Callable[[], object]) -> int:
    """Runs `main`; returns the exit status: 0, a UserError's own (2 for config mistakes, 75 for a run
    that was stopped and goes on later), 130 when interrupted, 141 when nobody reads the output any more."""
    ready_streams()
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
    except MemoryError as error:
        failure = UserError(f"not enough memory{f' ({error})' if str(error) else ''}")
    except OSError as error:
        if error.errno not in ORDINARY and not (error.errno == errno.ENOENT and error.filename):
            raise
        failure = UserError(f"{_named(error)}{error.strerror}")
    rank = os.environ.get("RANK", "0")
    if rank == "0" or not failure.everywhere:
        sign = "stopped" if isinstance(failure, Stopped) else "error"
        whose = "" if rank == "0" else f"rank {rank}: "
        told = _long_words_begun(hidden(in_one_line(f"{whose}{sign}: {failure}")))
        if len(told) > LONGEST_LINE:
            told = f"{told[: LONGEST_LINE // 2]} … {told[-LONGEST_LINE // 2 :]}"
        unbroken(sys.stderr, lambda: print(told, file=sys.stderr, flush=True))  # the exit status must be this one's
    return failure.exit_status


def _long_words_begun(told: str) -> str:
    """With the beginning alone of a word that no one reads to its end."""

    def begun(word: re.Match) -> str:
        return f"{word['beginning']}… ({len(word[0]):,} characters)"

    return re.sub(rf"(?<!\S)(?=\S{{{LONGEST_WORD}}})(?P<beginning>{BEGINNING})\S*", begun, told)


def _named(error: OSError) -> str:
    return (
        ""
        if error.filename is None
        else f"{os.fsdecode(error.filename) if not isinstance(error.filename, int) else error.filename}: "
    )
