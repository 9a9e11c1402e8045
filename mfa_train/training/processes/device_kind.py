"""Whether a run's ranks train on GPUs or on CPUs: one answer for all of them, never what each happens to find.

1. A launched job has decided it (`Job.device`). A rank that should have CUDA (ROCm is CUDA to torch) and hasn't
   fails by its node's name, before it joins anything; ranks of a job for CPUs see no GPU.
2. Ranks that torchrun started go by what they find, and compare it on the hosts before a process group is made:
   with some on gloo and some on nccl they would wait for each other until a timeout.
"""

import contextlib
import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

from mfa_train.errors import ConfigError, NoDevice

if TYPE_CHECKING:
    from torch.distributed import Store  # an import of seconds, before the environment is prepared

CUDA, CPU = "cuda", "cpu"
MOST_NAMED = 8
"""Ranks without a GPU whose hosts are told."""
LAST_WORDS = timedelta(seconds=10)
"""That the first rank, which may hold the store, leaves the others to read why they fail."""
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


def prepare_environment(kind: str) -> None:
    """For a process that is going to train on `kind`, before its first look at a GPU."""
    if kind == CPU:
        os.environ.update(dict.fromkeys(VISIBLE, ""))


def choose_allocator() -> None:
    """For every process that trains, whoever started it, before torch is imported: what torch's allocator of GPU memory
    does, unless the environment says it. Without a GPU nothing reads it."""
    if not any(name in os.environ for name in ALLOCATOR):
        # Sequences of different length leave holes in segments of fixed size.
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def require_device(local_rank: int) -> None:
    """Raises ConfigError, which names this node, where rank `local_rank` of the node has no CUDA device; NoDevice where
    a scheduler chose the node."""
    import torch

    if torch.cuda.is_available() and local_rank < torch.cuda.device_count():
        return
    kind = NoDevice if "SLURMD_NODENAME" in os.environ else ConfigError
    error = kind(
        f"host {host()}: the job is for GPUs, and rank {local_rank} of the node has no CUDA device: {seen()}: mend the "
        "node or leave it out, or type cluster.device=cpu for a job on CPUs"
    )
    error.everywhere = False
    raise error


def require_one_kind(store: "Store", rank: int, world_size: int, kind: str) -> None:
    """Raises ConfigError on every rank, naming hosts without a GPU, where some ranks train on CUDA and some don't.

    Each rank reads and writes the store a fixed number of times; it waits for the others as long as `store` lets it.
    """
    import torch.distributed as dist

    store = dist.PrefixStore("device_kind", store)
    if kind == CPU and (number := store.add("without", 1)) <= MOST_NAMED:
        store.set(f"without-{number}", f"host {host()} ({seen()})")
    if store.add("arrived", 1) == world_size:
        without = store.add("without", 0)
        told = [] if without == world_size else [f"without-{n}" for n in range(1, min(without, MOST_NAMED) + 1)]
        hosts = "; ".join(dict.fromkeys(store.get(key).decode() for key in told))
        mixed = f"{without} of {world_size} ranks have no CUDA device, the others have one: {hosts}"
        store.set("verdict", mixed if told else "")
    verdict = store.get("verdict").decode()
    if not verdict:
        return
    if store.add("read", 1) == world_size:
        store.set("all-read", "")
    if rank == 0:
        with contextlib.suppress(dist.DistStoreError):  # those that are left are told by their launcher
            store.wait(["all-read"], LAST_WORDS)
    raise ConfigError(f"{verdict}: mend them, or leave them out; CUDA_VISIBLE_DEVICES= on all ranks trains on CPUs")


def host() -> str:
    """This node as its scheduler calls it, or itself."""
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())


def seen() -> str:
    """What a person would ask of a node that should have GPUs."""
    import torch

    visible = ", ".join(f"{name}={os.environ[name]}" for name in VISIBLE if name in os.environ)
    return f"torch.cuda.device_count() is {torch.cuda.device_count()}, {visible or 'CUDA_VISIBLE_DEVICES is not set'}"
