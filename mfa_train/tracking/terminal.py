"""What a person sees while a run goes on."""

import sys

from tqdm import tqdm


class ProgressBar:
    """Steps done, the loss and the speed, on standard error; a line now and then where that is no terminal."""

    def __init__(self, steps: int):
        interval = 0.1 if sys.stderr.isatty() else 20.0
        self.bar = tqdm(total=steps, unit="step", mininterval=interval, maxinterval=interval, dynamic_ncols=True)
        self.shown: dict[str, str] = {}

    def advance(self) -> None:
        self.bar.update()

    def log(self, record: dict) -> None:
        self.shown["loss"] = f"{record['train/loss']:.3f}"
        if "val/bits_per_byte" in record:
            self.shown["held-out bits/byte"] = f"{record['val/bits_per_byte']:.3f}"
        self.shown["tokens/s"] = f"{record['tokens_per_second']:,.0f}"
        self.bar.set_postfix(self.shown, refresh=False)

    def close(self) -> None:
        self.bar.close()
