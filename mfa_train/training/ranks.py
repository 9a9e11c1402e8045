"""The processes of a run: one alone, or those a launcher (torchrun, deepspeed, srun) started together."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from mfa_train.training.host_memory import keep_freed_memory

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes the run's files."""
        return self.rank == 0

    def say(self, message: str) -> None:
        if self.first:
            print(message, flush=True)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, on each of them."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def on_first(self, action: Callable[[], Result]) -> Result:
        """What `action()` gives on rank 0, on every rank, and what it raises likewise: nobody is left waiting."""
        box: list = [None, None]
        if self.first:
            try:
                box[0] = action()
            except Exception as error:
                box[1] = error
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]


def world_size() -> int:
    """How many processes the launcher started, before they have joined."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join(timeout: timedelta = timedelta(minutes=30)) -> Ranks:
    """Joins the process group that RANK, WORLD_SIZE and LOCAL_RANK tell of; without them, one of its own, alone."""
    # DeepSpeed refuses to start without LOCAL_RANK, which only launchers set.
    rank, local_rank = int(os.environ.get("RANK", 0)), int(os.environ.setdefault("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        device, backend = torch.device("cuda", local_rank), "nccl"
        torch.cuda.set_device(device)
    else:
        device, backend = torch.device("cpu"), "gloo"
        # DeepSpeed would otherwise go by which GPU packages are installed.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        keep_freed_memory()
    if not dist.is_initialized():
        if world_size() == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend, timeout=timeout)
    return Ranks(rank, world_size(), device)
