"""What one rank decides, carried out by all of them after the same step.

A signal reaches one rank, or several at different moments; the clock of rank 0 says that a save is due. The rank puts
the number of a step into the ranks' store, and every rank looks there once after each step, whatever may be called for:
a question to one host, no wait for a device.

Why no rank can miss it: what is called for after step s is for after step s + 1. No rank ends step s + 1 before its
gradient's norm is known, to which every rank has contributed in step s + 1, the calling one after it wrote the number.
Two ranks that call for the same at once get the step of whoever was first.
"""

from mfa_train.training.processes.ranks import Ranks

CALLS = "calls"
"""Key of the store that counts them: a rank looks for what is called for where this has changed."""


class AgreedSteps:
    """The steps after which all ranks do something. `what` that is, is any word: "stop", say."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.calls = 0
        """As the last look found them."""
        self.steps: dict[str, int | None] = {}
        """What was asked for since they changed, with the step it was called for; None: it was not."""

    def call_for(self, what: str, done: int) -> None:
        """Has all ranks do it; to be called after step `done`, before the next begins."""
        self.ranks.store.compare_set(what, "", str(done + (self.ranks.world_size > 1)))
        self.ranks.store.add(CALLS, 1)

    def go_back(self, what: str, step: int) -> None:
        """The ranks go back to `step`: what was called for after a later one is for after the step that follows. Rank 0
        only, while the others wait."""
        if self.ranks.store.check([what]) and int(self.ranks.store.get(what)) > step + 1:
            self.ranks.store.set(what, str(step + 1))
            self.ranks.store.add(CALLS, 1)

    def look(self) -> None:
        """Looks what has been called for up to now, by any rank. To be called once after each step."""
        calls = self.ranks.store.add(CALLS, 0)
        if calls != self.calls:
            self.calls = calls
            self.steps.clear()

    def due(self, what: str, done: int) -> bool:
        """Whether it was called for after step `done`, or an earlier one, as the last look found it."""
        if not self.calls:
            return False
        if what not in self.steps:
            called = self.ranks.store.check([what])
            self.steps[what] = int(self.ranks.store.get(what)) if called else None
        step = self.steps[what]
        return step is not None and step <= done
