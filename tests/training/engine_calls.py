"""What a training step on a real engine with an average of its weights calls, on two ranks: the collectives, by which
group and how often, and what waits for the device. Each process exits 0 where they are those of `CALLS`."""

import gc
import sys
from collections import Counter
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.utils._python_dispatch import TorchDispatchMode

from mfa_train import config as configs
from mfa_train.data.reading.documents import ModelInputs
from mfa_train.training.processes.groups import MARGIN, leave, wait_longer_than_watchdog
from mfa_train.training.processes.ranks import join
from mfa_train.training.steps.engine import build_engine
from mfa_train.training.steps.guard import Guard
from mfa_train.training.steps.state import Progress, TrainingState
from mfa_train.training.steps.step import TrainingStep
from tests.conftest import SMALL

PASSES = 4
CALLS = {
    (1, torch.float32): {"reductions": 3, "gathers": 2, "scalars": 4},
    (1, torch.bfloat16): {"reductions": 1, "gathers": 2, "scalars": 3},
    (2, torch.bfloat16): {"reductions": PASSES + 3, "gathers": 2, "scalars": 5},
    (3, torch.bfloat16): {"reductions": PASSES + 2, "gathers": 25, "scalars": 2},
}
"""Of a step of `PASSES`: stage 1 sums its gradients over the ranks behind the last, 2 and 3, which keep none whole,
behind each (SMALL's fit one bucket); then the norm, and the updated weights. The average adds none. `synchronize`
never. Of the numbers that are read off a device one is ours, the norm; the others are DeepSpeed's. Nor does a step
leave a tensor in a cycle, which the collector would have to find (`mfa_train.training.steps.garbage`)."""
ranks = join()


class Scalars(TorchDispatchMode):
    """Counts the numbers that are read off a tensor, each of which waits for a device."""

    def __init__(self, counts: Counter):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            self.counts["scalars"] += 1
        return function(*args, **(kwargs or {}))


def counted(counts: Counter, owner, name: str, as_name: str) -> None:
    function = getattr(owner, name)

    def counting(*args, **kwargs):
        counts[as_name] += 1
        return function(*args, **kwargs)

    setattr(owner, name, counting)


class RandomBatches:
    def of(self, begin: int) -> np.ndarray:
        return np.random.default_rng(begin).integers(0, 199, (PASSES, 17))


def calls_of_a_step(zero: int, dtype: torch.dtype, counts: Counter) -> tuple[dict, int]:
    batch = ["training.batch_size=8", "training.micro_batch_size=1", "training.sequence_length=16"]
    config = configs.load([*SMALL, f"zero={zero}", *batch, "training.ema=0.999"])
    engine = build_engine(config, ranks, dtype)
    state = TrainingState(Progress(), Guard(config.guard, print))
    step = TrainingStep(engine, config, ranks, RandomBatches(), ModelInputs(ranks.device, None), state)
    step.take()  # stage 3 learns the order of its parameters
    step.take()
    gc.collect()
    counts.clear()
    gc.set_debug(gc.DEBUG_SAVEALL)
    with Scalars(counts):
        step.take()
    gc.collect()
    left = sum(isinstance(thing, torch.Tensor) for thing in gc.garbage)
    gc.set_debug(0)
    gc.garbage.clear()
    return dict(counts), left


def main() -> None:
    from deepspeed.accelerator import get_accelerator

    expected = wait_longer_than_watchdog(1234)
    assert expected == timedelta(seconds=1234) + MARGIN
    counts: Counter = Counter()
    for name in ("all_reduce", "reduce", "reduce_scatter_tensor", "all_gather_into_tensor", "all_gather", "broadcast"):
        counted(counts, dist, name, "reductions" if "reduce" in name else "gathers")
    counted(counts, get_accelerator(), "synchronize", "synchronize")
    for (zero, dtype), calls in CALLS.items():
        found = calls_of_a_step(zero, dtype, counts)
        assert found == (calls, 0), (zero, dtype, found)
    groups = list(distributed_c10d._world.pg_map)
    assert len(groups) > 1, "DeepSpeed makes one of its own"
    for group in groups:
        assert group._get_backend(torch.device("cpu")).options._timeout == expected, group.group_name
    leave()
    assert not dist.is_initialized()


main()
sys.exit(0)
