"""What can go wrong that is not a bug: one tree of exceptions, told to the person at the keyboard in one line.

A door (train.py, `mfa-train`) catches `UserError`, prints its message and exits with its `exit_status`; every other
exception is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something a user can mend. The message says what was given, what was expected and what to type instead."""

    exit_status = 1
    everywhere = False
    """Every rank raises it: then the first alone tells it."""


class ConfigError(UserError):
    """A config value that cannot work, found before anything expensive starts."""

    exit_status = 2
    everywhere = True


class DataError(UserError):
    """Data that cannot be read as what it claims to be."""


class TrackingError(UserError):
    """W&B would not do what only W&B can; a run never raises it."""


class TrainingError(UserError):
    """A run that cannot go on, as all its ranks know."""

    everywhere = True


class Stopped(UserError):
    """A run that was asked to stop, did, and goes on when the same command is typed again.

    75 is EX_TEMPFAIL of sysexits.h, "try again later": what a scheduler may requeue on.
    """

    exit_status = 75
    everywhere = True


HUNG_STATUS = 70
"""What a rank ends with that found no step to end (guard.hang_seconds): EX_SOFTWARE of sysexits.h. It waited for
another one, so its node is not the one to leave out."""


class NoDevice(ConfigError):
    """A node, as the scheduler calls it, that has not the GPUs that its job is for: another one may have them.

    69 is EX_UNAVAILABLE of sysexits.h.
    """

    exit_status = 69
    everywhere = False


MOST_KNOWN = 16
"""Names that are listed where none is near."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """` Did you mean 'mfa'?`: keys that end in what was given (`optimizer.lr` for `lr`), or the nearest name; or the
    known names where none is near, the first of them where they are many."""
    known, last = sorted(known), given.split(".")[-1].lower().replace("-", "_")
    alike = [name for name in known if name.rsplit(".", 1)[-1] == last and name != given]
    near = difflib.get_close_matches(given[:200], alike, n=3, cutoff=0) or difflib.get_close_matches(
        given[:200], known, n=1, cutoff=0.5
    )
    if near:
        return f" Did you mean {' or '.join(map(repr, near))}?"
    more = f", … ({len(known)} in all)" if len(known) > MOST_KNOWN else ""
    return f" Known: {', '.join(known[:MOST_KNOWN])}{more}."
