"""What a person sees, of a run and of every other command. A terminal that has gone stops nothing, nor does what it
cannot show; and names, values and errors reach it as text alone, never as its own control sequences."""

import io
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from tqdm import tqdm

from mfa_train.words import visible

Result = TypeVar("Result")
WIDEST = 120
"""Characters of a line of sentences, on however wide a terminal, and where there is none."""


class ProgressBar:
    """Steps done, the loss and the speed, on standard error; a line now and then where that is no terminal."""

    def __init__(self, steps: int, from_step: int = 0):
        interval = 0.1 if sys.stderr.isatty() else 20.0
        self.bar = unbroken(
            sys.stderr,
            lambda: tqdm(
                total=steps,
                initial=from_step,
                unit="step",
                mininterval=interval,
                maxinterval=interval,
                dynamic_ncols=True,
            ),
        )
        self.shown: dict[str, str] = {}

    def advance(self, done: int) -> None:
        unbroken(sys.stderr, lambda: self.bar.update(done - self.bar.n))

    def log(self, record: dict) -> None:
        if record["train/loss"] is not None:  # all steps since the last record were skipped
            self.shown["loss"] = f"{record['train/loss']:.3f}"
        if "val/bits_per_byte" in record:
            self.shown["held-out bits/byte"] = f"{record['val/bits_per_byte']:.3f}"
        self.shown["tokens/s"] = f"{record['tokens_per_second']:,.0f}"
        self.bar.set_postfix(self.shown, refresh=False)

    def close(self) -> None:
        unbroken(sys.stderr, self.bar.close)


def say(message: str) -> None:
    """Prints a message for the user, as text alone."""
    unbroken(sys.stdout, lambda: print(visible(message), flush=True))


def say_aside(message: str) -> None:
    """Prints a message that is no result, on standard error."""
    unbroken(sys.stderr, lambda: print(visible(message), file=sys.stderr, flush=True))


def say_text(text: str) -> None:
    """Prints a model's text: to a terminal as `say` does, to a file or another program exactly."""
    exact = not sys.stdout.isatty()
    unbroken(sys.stdout, lambda: print(text if exact else visible(text), flush=True))


def say_part(text: str) -> None:
    """Prints a piece of a model's text on a terminal, as it comes."""
    unbroken(sys.stdout, lambda: print(visible(text), end="", flush=True))


def wrapped(sentence: str, widest: int = WIDEST) -> str:
    """In lines of the terminal's width at most, the following ones indented by two; no word and no command is cut."""
    width = max(40, min(widest, shutil.get_terminal_size((WIDEST, 24)).columns))
    return textwrap.fill(sentence, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def command_here(name: str) -> str:
    """A command of this environment as the user would type it here."""
    beside = Path(sys.executable).with_name(name)
    return name if shutil.which(name) or not beside.exists() else os.path.relpath(beside)


def ready_streams() -> None:
    """What was closed when the process began (`>&- 2>&-`) goes nowhere from now on. Left closed, the next file that is
    opened would get its number, and with it what libraries print. What a terminal cannot show is shown as \\u6f22."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def unbroken(stream: IO, tell: Callable[[], Result]) -> Result:
    """What `tell()` gives, which writes to `stream`. Where nobody reads that any more, as `| head`, it goes nowhere."""
    try:
        return tell()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return tell()
