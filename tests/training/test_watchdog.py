"""What is left to read when a rank stands still."""

import threading

import torch
import torch.distributed as dist

from mfa_train.training.processes import watchdog
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.processes.watchdog import Watchdog


def test_every_ranks_stacks_are_written_when_the_watchdog_of_one_fires(tmp_path, monkeypatch):
    ended, store = threading.Event(), dist.HashStore()

    def standing_still() -> None:
        assert ended.wait(30)

    monkeypatch.setattr(watchdog.os, "_exit", lambda status: ended.set())
    monkeypatch.setattr(watchdog, "OTHERS_SECONDS", 1.5)
    ranks = [Ranks(rank, 2, torch.device("cpu"), store) for rank in (0, 1)]
    with Watchdog(ranks[1], 6, tmp_path), Watchdog(ranks[0], 0.5, tmp_path):
        standing_still()
    for rank in (0, 1):
        assert "in standing_still" in (tmp_path / f"stacks-rank-0000{rank}.txt").read_text()
