"""A preparation's bar, on a terminal alone: how much of the input is read, tokens per second, time left."""

import time

from tqdm import tqdm


class Bar:
    """From `position` on, of `size` bytes of input; without a size (None) tokens are counted, and no time is left."""

    def __init__(self, size: int | None, position: int):
        self.size, self.tokens, self.start = size, 0, time.monotonic()
        self.bar = tqdm(
            total=size,
            initial=position if size else 0,
            unit="B" if size else " tokens",
            unit_scale=True,
            disable=None,
            dynamic_ncols=True,
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def update(self, position: int, tokens: int) -> None:
        """`tokens` more were made; the input is read up to `position`."""
        self.tokens += tokens
        if self.size:
            rate = self.tokens / (time.monotonic() - self.start)
            self.bar.set_postfix_str(f"{tqdm.format_sizeof(rate)} tokens/s", refresh=False)
        self.bar.update(position - self.bar.n if self.size else tokens)
