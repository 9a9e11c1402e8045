"""What one rank decides, carried out by all of them after the same step.

A signal reaches one rank, or several at different moments; the clock of rank 0 says that a save is due. The
rank puts the number of a step into the ranks' store, and every rank looks there after each step: a question to one
host, no wait for a device.

Why no rank can miss it: an order given after step s is for after step s + 1. No rank ends step s + 1 before its
gradient's norm is known, to which every rank has contributed in step s + 1, the ordering one after it wrote the order.
Two ranks that order the same at once get the step of whoever was first.
"""

from mfa_train.training.processes.ranks import Ranks


class Orders:
    def __init__(self, ranks: Ranks):
        self.ranks = ranks

    def give(self, order: str, done: int) -> None:
        """Orders it of all ranks; to be called after step `done`, before the next begins."""
        self.ranks.store.compare_set(order, "", str(done + (self.ranks.world_size > 1)))

    def go_back(self, order: str, step: int) -> None:
        """The ranks go back to `step`: an order for a later one is for after the step that follows. Rank 0 only,
        while the others wait."""
        if self.ranks.store.check([order]) and int(self.ranks.store.get(order)) > step + 1:
            self.ranks.store.set(order, str(step + 1))

    def due(self, order: str, done: int) -> bool:
        """Whether `order` is for after step `done`, or was for an earlier one."""
        return self.ranks.store.check([order]) and int(self.ranks.store.get(order)) <= done
