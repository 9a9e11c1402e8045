"""SIGTERM, SIGUSR1 and SIGINT as a request: finish the step, save, exit with a status that a scheduler can requeue on.

Schedulers send SIGTERM, or what was asked for (`sbatch --signal=USR1@120`), some time before they kill. A second SIGINT
stops at once, without saving.
"""

import contextlib
import os
import signal

REQUESTS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Takes stop signals while it is entered: `received` is then the name of the first, or None. Outside, signals do
    what they did."""

    def __init__(self):
        self.received: str | None = None
        self.interrupts = 0

    def __enter__(self) -> "StopSignals":
        self.before = {number: signal.signal(number, self._on_signal) for number in REQUESTS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _) -> None:
        self.interrupts += number == signal.SIGINT
        if self.interrupts > 1:
            os._exit(130)  # an exception would wait for what the other ranks owe
        if self.received is None:
            self.received = signal.Signals(number).name
            with contextlib.suppress(OSError):  # nobody reads; and not print: a handler may run in the middle of one
                os.write(2, f"\n{self.received}: finishing the step, then saving\n".encode())
