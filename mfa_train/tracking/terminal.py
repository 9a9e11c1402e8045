"""What a person sees while a run goes on. A terminal that has gone stops no run."""

import contextlib
import sys

from tqdm import tqdm


class ProgressBar:
    """Steps done, the loss and the speed, on standard error; a line now and then where that is no terminal."""

    def __init__(self, steps: int, from_step: int = 0):
        interval = 0.1 if sys.stderr.isatty() else 20.0
        with _unheard():
            self.bar = tqdm(total=steps, initial=from_step, unit="step", mininterval=interval, maxinterval=interval,
                            dynamic_ncols=True)
        self.shown: dict[str, str] = {}

    def advance(self, done: int) -> None:
        with _unheard():
            self.bar.update(done - self.bar.n)

    def log(self, record: dict) -> None:
        if record["train/loss"] is not None:  # all steps since the last record were skipped
            self.shown["loss"] = f"{record['train/loss']:.3f}"
        if "val/bits_per_byte" in record:
            self.shown["held-out bits/byte"] = f"{record['val/bits_per_byte']:.3f}"
        self.shown["tokens/s"] = f"{record['tokens_per_second']:,.0f}"
        with _unheard():
            self.bar.set_postfix(self.shown, refresh=False)

    def close(self) -> None:
        with _unheard():
            self.bar.close()


def _unheard() -> contextlib.AbstractContextManager:
    """For output whose reader may have gone, as `2>&1 | head` does."""
    return contextlib.suppress(OSError, ValueError)
