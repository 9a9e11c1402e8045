"""Memory of one device: what DeepSpeed (0.18-0.19, as `mfa_train.training.engine` sets it up) holds at each ZeRO stage.

Counted while the gradients exist, the fullest moment of a step. Bytes per parameter on each of W ranks, b = 2 in bf16
and 4 in fp32 (ZeRO, arXiv 1910.02054, section 5; the constants are those of DeepSpeed's own wrappers, read off the tensors
of real ranks):

    stage   weights             gradients                     optimizer (master weights and two moments, float32)
    0       b                   4                             12, in fp32 8: the weights are their own master
    1       b                   4/W; in bf16 4 + 2: float32   12/W
                                sums of all, and the pass's
    2       b                   4/W                           12/W
    3       b/W, small ones b   4/W                           12/W
"""

from dataclasses import dataclass

import torch

REDUCE_BUCKET = 500_000_000
"""Gradients that DeepSpeed's ranks sum at once, in elements (its default)."""
PERSISTENT_PARAMETER = 100_000
"""Stage 3 keeps parameters of up to so many elements whole on every rank (its default)."""
LIVE_PARAMETERS = 1_000_000_000
"""Elements that stage 3 keeps gathered at once (its default)."""
RESERVE = 0.08
"""Share of a device's memory left to the runtime, the communication library and the allocator's fragmentation."""


@dataclass(frozen=True)
class States:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    transient: int
    """The largest buffers beside activations: gradients on their way to be summed, parameters gathered for a layer."""
    offloaded: int = 0
    """Of these, in the host's memory instead."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.transient - self.offloaded


def reduce_bucket(params: int) -> int:
    """Elements of the buffer in which gradients are summed: DeepSpeed allocates it whole, however small the model."""
    return min(params, REDUCE_BUCKET)


def model_states(parameter_sizes: tuple[tuple[int, int], ...], dtype: torch.dtype, stage: int, ranks: int,
                 offload: str = "none") -> States:
    """parameter_sizes: (elements, how many parameters of that size)."""
    params, width = sum(size * count for size, count in parameter_sizes), dtype.itemsize
    half = dtype != torch.float32
    share = -(-params // ranks)
    bucket = reduce_bucket(params)
    if stage == 0:
        return States(width * params, 4 * params, (12 if half else 8) * params, transient=0)
    if stage == 1 and half:
        return States(width * params, 6 * params, 12 * share, transient=0)
    if stage < 3:
        # The gradients of a bucket, and the buffer they are copied into.
        states = States(width * params, 4 * share, 12 * share, transient=2 * width * bucket)
    else:
        whole = sum(size * count for size, count in parameter_sizes if size <= PERSISTENT_PARAMETER)
        gathered = min(params - whole, LIVE_PARAMETERS)
        states = States(width * (share + whole), 4 * share, 12 * share, transient=width * gathered + 4 * bucket)
    offloaded = {"none": 0, "optimizer": states.optimizer + states.gradients,
                 "parameters": states.optimizer + states.gradients + width * share}[offload]
    return States(states.weights, states.gradients, states.optimizer, states.transient, offloaded)
