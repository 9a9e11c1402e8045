"""Python's garbage collection, on all ranks behind the same steps.

Left alone each rank collects whenever it has made enough objects, a different step on each: a thousand ranks then wait
for one of them at almost every step. Reference counts free tensors as ever: a step leaves none in a cycle.
"""

import gc

YOUNG_EVERY, ALL_EVERY = 50, 1000
"""Steps. Young objects take milliseconds to look through, all of them a quarter of a second (a million of imports)."""


class GarbageInStep:
    """Collects while it is entered behind the steps that `step(done)` is told of, and at no other time."""

    def __init__(self) -> None:
        self.done, self.was_enabled = 0, False

    def __enter__(self) -> "GarbageInStep":
        self.was_enabled = gc.isenabled()
        gc.disable()
        return self

    def __exit__(self, *_) -> None:
        if self.was_enabled:
            gc.enable()

    def step(self, done: int) -> None:
        if done != self.done and done % YOUNG_EVERY == 0:
            gc.collect(2 if done % ALL_EVERY == 0 else 1)
        self.done = done
