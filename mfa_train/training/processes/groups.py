"""The groups of ranks that share sequences, one timeout on every process group, and the end of all of them.

DeepSpeed sums gradients in a group that it clones from the world's, for which it names no timeout; torch then takes its
own (10 minutes with NCCL), whatever the world's group was told. A collective that waits longer is aborted without a
word of where the ranks stand. So every group, those there and those to come, waits longer than the watchdog
(`watchdog.py`), which speaks first: in steps, in evaluations and saves. Before the steps, while a corpus is prepared
and the engine is built, no watchdog looks, and this timeout is what ends a run that stands still.
"""

import sys
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import distributed_c10d

from mfa_train.parallel.groups import WHOLE_SEQUENCES, ContextGroup, consecutive
from mfa_train.training.processes.ranks import Ranks, join

MARGIN = timedelta(minutes=10)
"""A collective is begun up to a step before the watchdog's clock is set back; no step is near that long."""


def wait_longer_than_watchdog(hang_seconds: float) -> timedelta:
    """Gives every group of this process guard.hang_seconds and `MARGIN`; returns that."""
    timeout = timedelta(seconds=hang_seconds) + MARGIN
    # What new_group takes where its caller names none, as DeepSpeed's doesn't.
    distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout
    for group in list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(timeout, group)
    return timeout


def join_context_group(context: int, ranks: Ranks, by: str = "entries") -> ContextGroup:
    """This rank's, where `context` ranks share sequences; by: entries | heads. Every rank makes all groups, alike."""
    if context == 1:
        return WHOLE_SEQUENCES
    groups = consecutive(ranks.world_size, context)
    handles = [dist.new_group(group) for group in groups]
    return ContextGroup(ranks.rank % context, context, handles[ranks.rank // context], by=by)


def leave() -> None:
    """Ends the groups of a run that ended well, as the last thing its process does: DeepSpeed keeps groups by name that
    are gone then. After a failure nothing is ended in order, as it could wait for a rank that has died."""
    if dist.is_initialized():
        dist.destroy_process_group()
    forget_expert_groups()
    join.cache_clear()


def forget_expert_groups() -> None:
    """Lets DeepSpeed make groups of experts anew; by itself it takes those of that name which are gone."""
    if groups := sys.modules.get("deepspeed.utils.groups"):
        for kind in ("_EXPERT_PARALLEL_GROUP", "_EXPERT_DATA_PARALLEL_GROUP"):
            getattr(groups, kind, {}).clear()
            getattr(groups, f"{kind}_RANKS", {}).clear()
