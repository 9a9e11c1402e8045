"""Memory of one device: what DeepSpeed (0.18-0.19, as `training.steps.engine` sets it up) holds at each ZeRO stage.

Counted while the gradients exist, the fullest moment of a step. Bytes per parameter on each of W ranks, b = 2 in bf16
and 4 in fp32 (ZeRO, arXiv 1910.02054, section 5; the constants are those of DeepSpeed's own wrappers, read off the
tensors of real ranks):

    stage   weights             gradients                     optimizer (master weights and two moments, float32)
    0       b                   4                             12, in fp32 8: the weights are their own master
    1       b                   4/W; in bf16 4: float32       12/W
                                sums, to which each gradient
                                is added as it comes;
                                offloading as stage 2
    2       b                   4/W                           12/W
    3       b/W, small ones b   4/W and a bucket's 4          12/W

Where `parallel.experts` = E ranks share out each layer's experts, a rank holds 1/E of them, which W/E ranks have: of
these weights and gradients a rank has 1/E where the table says all, and 1/W where it says 1/W.

training.ema keeps an average of the masters beside each of them: 4/W more of the optimizer, at stage 0 4.
"""

from dataclasses import dataclass, replace

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
    passing: int
    """Of the gradients, those that come with a backward pass and go with the step."""
    optimizer: int
    transient: int
    """The most that buffers take at once: gradients on their way to be summed, parameters gathered for a layer."""
    early: int
    """Of the buffers, those there while all activations are: of a small model the one for its gradients, or its
    gathered parameters; of one with more gradients than a bucket all, since they are summed from early in the backward
    pass on."""
    offloaded: int = 0
    """Of these, in the host's memory instead."""
    kept_copy: int = 0
    """What the last checkpoint is written from while the steps go on."""
    passing_copy: int = 0
    """The same where the steps wait: it goes with the save."""

    def total(self, activations: int) -> int:
        """The fullest moment of a step. Activations go as gradients come, so it is one end of the backward pass, or a
        save."""
        resting = self.weights + self.gradients - self.passing + self.optimizer - self.offloaded + self.kept_copy
        return resting + max(activations + self.early, self.passing + self.transient, self.passing_copy)


def checkpoint_copy(
    parameter_sizes: tuple[tuple[int, int], ...], stage: int, ranks: int, pinned: bool, ema: bool = False
) -> int:
    """Bytes of the host's memory that a rank's share of a checkpoint takes: float32 masters and two moments, and with
    `ema` the masters' average. A GPU
    copies into `pinned` memory, a block a piece, which torch's allocator (CachingHostAllocator) rounds up to a power of
    two."""
    params = sum(size * count for size, count in parameter_sizes)
    share = -(-params // ranks)
    kinds = 4 if ema else 3
    if not pinned:
        return 4 * kinds * share
    blocks = 0
    for size, count in parameter_sizes:
        # Stages 0 and 3 part every parameter, 1 and 2 all of them laid end to end.
        piece = -(-size // ranks) if stage in (0, 3) else min(size, share)
        pieces = count if stage in (0, 3) else -(-size * count // (piece * ranks))
        blocks += pieces * (1 << (4 * piece - 1).bit_length())
    return kinds * blocks


def reduce_bucket(params: int) -> int:
    """Elements of the buffer in which gradients are summed: DeepSpeed allocates it whole, however small the model."""
    return min(params, REDUCE_BUCKET)


def held(
    parameter_sizes: tuple[tuple[int, int], ...], expert_sizes: tuple[tuple[int, int], ...], expert_ranks: int
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """(elements, how many) of the parameters of one rank, before ZeRO shards them: of those that every rank has, and of
    its share of the experts that are shared out."""
    if expert_ranks == 1:
        return parameter_sizes, ()
    shared_out = dict(expert_sizes)
    others = tuple((size, count - shared_out.get(size, 0)) for size, count in parameter_sizes)
    return others, tuple((size // expert_ranks, count) for size, count in expert_sizes)


def model_states(
    parameter_sizes: tuple[tuple[int, int], ...],
    dtype: torch.dtype,
    stage: int,
    ranks: int,
    offload: str = "none",
    given_bucket: int | None = None,
    ema: bool = False,
    expert_sizes: tuple[tuple[int, int], ...] = (),
    expert_ranks: int = 1,
) -> States:
    """parameter_sizes: (elements, how many parameters of that size); `expert_sizes`, those of them that each
    `expert_ranks` ranks share out. given_bucket: elements, where the config has
    deepspeed.zero_optimization.reduce_bucket_size. ema: whether the weights' average is kept."""
    share, width = -(-sum(size * count for size, count in parameter_sizes) // ranks), dtype.itemsize
    others, experts = held(parameter_sizes, expert_sizes, expert_ranks)
    parameter_sizes = (*others, *experts)
    params = sum(size * count for size, count in parameter_sizes)
    half = dtype != torch.float32
    bucket = given_bucket or reduce_bucket(params)
    kept = 16 if ema else 12  # bytes for each value that a rank updates
    summed = 4 * bucket if half or stage == 0 else 0  # a bucket's float32 copy, in which ranks sum

    def early(buffers: int, small: int) -> int:
        return buffers if params > bucket else small

    if stage == 0:
        return States(
            width * params, 4 * params, 4 * params, (kept if half else kept - 4) * params, summed, early(summed, 0)
        )
    if stage == 1 and half and offload == "none":  # offloading has the wrapper of stage 2
        buffers = summed if ranks > 1 else 0
        return States(width * params, 4 * params, 0, kept * share, buffers, early(buffers, 0))
    if stage < 3:
        # A bucket's gradients and the buffer they are copied into; in float32 their sum takes the place of some of
        # them.
        buffers = 2 * width * bucket + (summed or -4 * min(share, bucket))
        states = States(width * params, 4 * share, 4 * share, kept * share, buffers, early(buffers, width * bucket))
    else:
        whole = sum(size * count for size, count in parameter_sizes if size <= PERSISTENT_PARAMETER) if ranks > 1 else 0
        gathered = width * min(params - whole, LIVE_PARAMETERS)
        buffers = gathered + width * bucket + summed
        states = States(
            width * (share + whole),
            4 * (share + bucket),
            0,
            kept * share,
            buffers,
            early(buffers, gathered if ranks > 1 else 0),
        )
    offloaded = {
        "none": 0,
        "optimizer": states.optimizer + 4 * share,
        "parameters": states.optimizer + 4 * share + width * share,
    }[offload]
    return replace(states, passing=0 if offloaded else states.passing, offloaded=offloaded)
