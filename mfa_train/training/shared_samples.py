"""`mfa-train generate RUN parallel.context=C`: text behind prompts that C ranks read together.

1. The ranks join: here alone, text from a run needs no process group else. Each has the whole model, on its GPU where
   there is one.
2. Each reads its stretches of the prompts, and they send each other cache entries: the activations of a prompt are
   divided by C, its cache is whole on every rank.
3. All decode, each by itself, with one seed; rank 0 tells the texts, and each rank's memory at its peak.
"""

import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mfa_train.attention.cache_types import cache_dtype
from mfa_train.budget.devices import planned_device, resolve_precision
from mfa_train.checkpoints.model import model_of
from mfa_train.checkpoints.weights import FINAL, weights_of
from mfa_train.config import Config
from mfa_train.config.quantities import written
from mfa_train.errors import ConfigError
from mfa_train.training.closing_sample import Samples, make_samples
from mfa_train.training.processes.groups import join_context_group, leave
from mfa_train.training.processes.ranks import join, local_rank, local_world_size, world_size


def samples_of_ranks(
    config: Config, folder: Path, prompts: Sequence[str], checkpoint: str = FINAL, **how: Any
) -> Samples:
    """`samples_from_run` on every rank, which read the prompts together. Raises ConfigError where there are more ranks,
    or fewer, than parallel.context."""
    _require_ranks(config.parallel.context, world_size())
    weights = weights_of(folder, config, checkpoint)
    tokenizer = weights.tokenizer()
    device = planned_device("auto", local_world_size(), local_rank())
    ranks = join()
    cache_dtype(config.cache.dtype, ranks.device)
    model = model_of(weights)
    if ranks.device.type == "cuda":
        half = resolve_precision("auto", device)
        model = model.to(ranks.device, torch.float32 if weights.dtype == torch.float32 else half)
    sequences = join_context_group(config.parallel.context, ranks)
    peak = _Peak(ranks.device)
    samples = make_samples(config, model, tokenizer, ranks.device, prompts, sequences=sequences, **how)
    told = ", ".join(f"rank {rank} {one}" for rank, one in enumerate(ranks.gather_objects(peak.told())))
    leave()
    return replace(samples, memory=f"\npeak memory: {told}")


class _Peak:
    """Of this rank's memory from now on: its GPU's, by torch's allocator; on a CPU the process's."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self.before = self._bytes()

    def told(self) -> str:
        peak = self._bytes()
        return f"{written(peak)} ({written(peak - self.before)} more than before the prompts)"

    def _bytes(self) -> int:
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _require_ranks(context: int, world_size: int) -> None:
    if world_size == context:
        return
    start = "python" if context == 1 else f"torchrun --nproc-per-node {context}"
    here = "there is 1 rank" if world_size == 1 else f"there are {world_size:,} ranks"
    raise ConfigError(
        f"parallel.context={context}: {here}, and all read the prompts together: type parallel.context={world_size}, "
        f"or start it with {start} -m mfa_train.cli generate"
    )
