"""Contenders that take turns, each in a process of its own: one that dies, or stands still, says so in its row, and the
others go on."""

import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

PATIENCE_SECONDS = 900.0
"""After which a contender that says nothing is given up. The slowest turns compile, or write their data."""


class Contender:
    """`figures(*arguments)` in a process of its own: an iterator, of which `turn` asks one figure at a time."""

    def __init__(self, figures: Callable[..., Iterator[Any]], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(figures, arguments, theirs))
        self.process.start()
        theirs.close()  # the process's alone now: where it ends, so does the pipe
        self.failure: str | None = None
        """Why there are no more figures."""

    def turn(self) -> Any:
        """The next figure; None from when it has failed."""
        if self.failure is not None:
            return None
        figure, self.failure = self._answer()
        return figure

    def _answer(self) -> tuple[Any, str | None]:
        asked = time.monotonic()
        try:
            self.pipe.send(True)
            while not self.pipe.poll(1.0):  # processes of its own may hold the pipe open when it has gone
                if not self.process.is_alive() and not self.pipe.poll(0.0):
                    raise EOFError
                if time.monotonic() - asked > PATIENCE_SECONDS:
                    return None, f"no answer for {PATIENCE_SECONDS:.0f} seconds"
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(10)
            return None, f"its process ended with {self.process.exitcode}"

    def end(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join(10)
        self.process.kill()
        self.process.join()


def _serve(figures: Callable[..., Iterator[Any]], arguments: tuple[Any, ...], pipe: Connection) -> None:
    """Answers every message with (figure, None), or with (None, why there is none) and ends."""
    made = None
    try:
        while pipe.recv():
            made = made or iter(figures(*arguments))
            pipe.send((next(made), None))
    except (EOFError, KeyboardInterrupt):  # nobody asks any more
        pass
    except BaseException as error:
        traceback.print_exc()
        line = (str(error).strip() or "without a message").splitlines()[0]
        pipe.send((None, f"{type(error).__name__}: {line}"))
        sys.exit(1)
