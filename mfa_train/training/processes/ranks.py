"""The processes of a run: one alone, or those a launcher (torchrun, deepspeed, srun) started together."""

import functools
import os
import pickle
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from mfa_train.errors import ConfigError, UserError
from mfa_train.tracking.terminal import say
from mfa_train.training.processes.device_kind import require_one_kind
from mfa_train.training.processes.host_memory import keep_freed_memory

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """This process among them, and what they do together."""

    rank: int
    """This process's number, from 0."""
    world_size: int
    """How many there are."""
    device: torch.device
    """Which this process trains on."""
    store: dist.Store
    """Keys and values that all ranks see, on the hosts: for what must not wait for a device."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that prints and writes the run's files."""
        return self.rank == 0

    def say(self, message: str) -> None:
        """Prints on rank 0. A reader that has gone, as `| head` does, stops no run."""
        if self.is_rank_zero:
            say(message)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, on each of them."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def largest(self, value: float) -> float:
        """Of all ranks', on each of them."""
        values = torch.tensor(value, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.item()

    def as_on_rank_zero(self, values: torch.Tensor) -> None:
        """Makes `values` those of rank 0, on every rank."""
        if self.world_size > 1:
            dist.broadcast(values, 0)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Every rank's `values` (...), as (world_size, ...) on each of them."""
        if self.world_size == 1:
            return values.unsqueeze(0)
        gathered = values.new_empty((self.world_size, *values.shape))
        dist.all_gather(list(gathered), values)
        return gathered

    def gather_objects(self, value: Result) -> list[Result]:
        """Every rank's `value`, on each of them."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def meet(self) -> None:
        """Waits until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def host_of(self, rank: int) -> str:
        """The name of the machine that `rank` is on, as it said when it joined."""
        return self.store.get(f"host/{rank}").decode() if self.store.check([f"host/{rank}"]) else "this machine"

    def on_rank_zero(self, action: Callable[[], Result]) -> Result:
        """What `action()` gives on rank 0, on every rank, and what it raises likewise: nobody is left waiting."""
        box: list = [None, None]
        if self.is_rank_zero:
            try:
                box[0] = action()
            except Exception as error:
                box[1] = _sendable(error)
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0)
        return _given([box])[0]

    def on_each(self, action: Callable[[], Result]) -> list[Result]:
        """What `action()` gives on each rank, on every rank, and what the first raises for which it fails likewise:
        nobody is left waiting."""
        box: list = [None, None]
        try:
            box[0] = action()
        except Exception as error:
            box[1] = _sendable(error)
        return _given(self.gather_objects(box))


def _sendable(error: Exception) -> Exception:
    """`error`, or in place of one that other processes could not be sent, or could not make anew, its words: it would
    fail inside the collective, on some ranks."""
    try:
        pickle.loads(pickle.dumps(error))  # its own, as torch sends it
        return error
    except Exception:
        told = RuntimeError(repr(error))
        told.__cause__ = error
        return told


def _given(boxes: list[list]) -> list:
    """The first of each of `boxes`, or what the first of the others raises, told as every rank's."""
    for _, error in boxes:
        if error is not None:
            if isinstance(error, UserError):
                error.everywhere = True
            raise error
    return [value for value, _ in boxes]


def world_size() -> int:
    """How many processes the launcher started, before they have joined."""
    return _from_environment("WORLD_SIZE", 1)


def local_world_size() -> int:
    """How many of them share this machine."""
    return _from_environment("LOCAL_WORLD_SIZE", 1)


def local_rank() -> int:
    """This process's number among those of its machine, from 0: which of its GPUs it trains on."""
    return _from_environment("LOCAL_RANK", 0)


def _from_environment(name: str, default: int) -> int:
    """A whole number that a launcher leaves in the environment. Raises ConfigError for another word."""
    word = os.environ.get(name, str(default))
    if not re.fullmatch("[0-9]{1,7}", word) or (name.endswith("SIZE") and not int(word)):
        raise _odd_environment(
            f"{name}={ascii(word)[1:-1][:40]} in the environment: expected a number, as a launcher (torchrun, "
            f"mfa-train launch) sets for each process: type unset {name} for one process"
        )
    return int(word)


def _odd_environment(message: str) -> ConfigError:
    error = ConfigError(message)
    error.everywhere = False  # which process is rank 0 is what is wrong
    return error


@functools.cache
def join(timeout: timedelta = timedelta(minutes=30)) -> Ranks:
    """Joins the process group that RANK, WORLD_SIZE and LOCAL_RANK tell of; without them, one of its own, alone."""
    # DeepSpeed refuses to start without LOCAL_RANK, which only launchers set.
    rank, gpu = _from_environment("RANK", 0), local_rank()
    os.environ.setdefault("LOCAL_RANK", "0")
    if missing := [
        name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if world_size() > 1 and name not in os.environ
    ]:
        raise _odd_environment(
            f"WORLD_SIZE={world_size()} in the environment without {' and '.join(missing)}: type unset WORLD_SIZE for "
            "one process, or start several with torchrun or mfa-train launch"
        )
    if rank >= world_size():
        raise _odd_environment(
            f"RANK={rank} in the environment is none of the WORLD_SIZE={world_size()} processes: type unset RANK for "
            "one process, or start several with torchrun or mfa-train launch"
        )
    if torch.cuda.is_available():
        device, backend = torch.device("cuda", gpu), "nccl"
        torch.cuda.set_device(device)
    else:
        device, backend = torch.device("cpu"), "gloo"
        # DeepSpeed would otherwise go by which GPU packages are installed.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        keep_freed_memory()
    if world_size() == 1:
        store: dist.Store = dist.HashStore()
    else:
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
        store.set_timeout(timeout)
        require_one_kind(store, rank, world_size(), device.type)
    dist.init_process_group(
        backend, store=dist.PrefixStore("default_pg", store), rank=rank, world_size=world_size(), timeout=timeout
    )
    ranks = Ranks(rank, world_size(), device, dist.PrefixStore("mfa_train", store))
    ranks.store.set(f"host/{rank}", socket.gethostname())
    return ranks
