"""What a DeepSpeed engine has learnt, in named pieces: one form for every ZeRO stage, precision and number of ranks.

A piece is a part of one parameter, flattened: its float32 master weights and AdamW's two moments, and with
training.ema the average of the weights, as views of the engine's own memory. Each rank has the pieces that its stage
gives it, so nothing is gathered, and what is written into them is what the next step works with. The weights of the
forward pass are derived from the masters (`derive_weights`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from mfa_train.checkpoints.tensor_files import EMA, Piece
from mfa_train.training.steps.optimizer import inner_optimizer


def pieces(engine, rank: int) -> Iterator[Piece]:
    """All pieces that `rank`, this one, holds."""
    average = inner_optimizer(engine).average
    for name, flat, offset, start, length in _located(engine, rank):
        state = _moments(engine, flat)
        tensors = {"master": flat.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
        if average is not None:
            tensors[EMA] = average.of(flat)
        yield Piece(name, start, {kind: tensor.view(-1)[offset : offset + length] for kind, tensor in tensors.items()})


def own_pieces(engine, rank: int, world_size: int) -> Iterator[Piece]:
    """The pieces that `rank` answers for: over all ranks each value once. At stage 0, where every rank holds all, its
    share."""
    for piece in pieces(engine, rank):
        if engine.zero_optimization_stage() == 0:
            piece = piece.part(len(piece) * rank // world_size, len(piece) * (rank + 1) // world_size)
        if len(piece):
            yield piece


class Values(Protocol):
    """Where weights come from: a folder, or a generator."""

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fills `out` (values,) with those of the parameter `name`, flattened, from `start` on."""


def fill(engine, values: Values, rank: int) -> None:
    """Puts weights into a new engine, each rank into what it holds; AdamW has seen nothing yet. Raises what
    reading raises."""
    for name, flat, offset, start, length in _located(engine, rank):  # the moments begin with the first step
        values.read(name, start, flat.detach().view(-1)[offset : offset + length])
    derive_weights(engine)


@torch.no_grad()
def take_those_of_rank_zero(engine, rank: int) -> None:
    """Makes the masters of all ranks rank 0's, to the bit, at stage 0, where each rank holds and drew them all:
    processors of another kind may round another way, and nothing later would bring the copies together."""
    for _, flat, *_ in _located(engine, rank):
        dist.broadcast(flat.detach(), src=0)
    derive_weights(engine)


def updates(engine) -> int:
    """How many updates AdamW has made: fewer than steps where some were skipped. Its bias correction counts them."""
    return max((int(state["step"].item()) for state in _states(engine)), default=0)


def begin_average(engine) -> None:
    """Makes the average, where the engine keeps one, begin with the masters as they are."""
    if average := inner_optimizer(engine).average:
        average.begin_anew()


def set_updates(engine, count: int) -> None:
    """Makes AdamW go on as after `count` updates."""
    for state in _states(engine):
        state["step"].fill_(count)


@contextmanager
def averaged_weights(engine) -> Iterator[None]:
    """Within the block the model's weights are made of their average, as the engine has one; behind it of the masters
    again, to the bit. Every rank takes part; no step is taken meanwhile."""
    average = inner_optimizer(engine).average
    assert average is not None
    try:
        with average.in_place_of_masters():
            derive_weights(engine)
            yield
    finally:
        derive_weights(engine)


@torch.no_grad()
def derive_weights(engine) -> None:
    """Makes the weights of the forward pass out of the masters, as every step does."""
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage == 3:
        optimizer._partition_all_parameters()
        for group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.invalidate_secondary_tensor()  # the node's copy of all weights (zero_hpz_partition_size)
        if optimizer.persistent_parameters:  # small ones, which stage 3 keeps whole
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
    elif stage in (1, 2):
        optimizer.update_lp_params()
    elif hasattr(optimizer, "fp32_groups"):
        for weights, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups):
            for weight, master in zip(weights, masters):
                weight.copy_(master)


def _located(engine, rank: int) -> Iterator[tuple[str, Tensor, int, int, int]]:
    locate = (_of_stage_0, _of_stages_1_and_2, _of_stages_1_and_2, _of_stage_3)[engine.zero_optimization_stage()]
    return locate(engine, rank)


def _of_stage_0(engine, rank: int) -> Iterator[tuple[str, Tensor, int, int, int]]:
    """Where `rank` has what it holds at stage 0: (parameter, flat tensor, place in it, place in the parameter, length)
    of each piece; so for the other stages."""
    masters = {}
    if hasattr(engine.optimizer, "fp32_groups"):  # bf16
        masters = {
            id(weight): master
            for group in zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups)
            for weight, master in zip(*group)
        }
    for name, parameter in engine.module.named_parameters():
        yield name, masters.get(id(parameter), parameter), 0, 0, parameter.numel()


def _of_stages_1_and_2(engine, rank: int) -> Iterator[tuple[str, Tensor, int, int, int]]:
    optimizer = engine.optimizer
    # Stage 1 in bf16 is another class of DeepSpeed's, with another name for the same.
    flats = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_groups_flat_partition
    for name, parameter in engine.module.named_parameters():
        if (mapping := parameter._hp_mapping) is not None:
            yield (
                name,
                flats[mapping.param_group_index],
                mapping.hp_fragment_address.start,
                mapping.lp_fragment_address.start,
                mapping.hp_fragment_address.numel,
            )


def _of_stage_3(engine, rank: int) -> Iterator[tuple[str, Tensor, int, int, int]]:
    optimizer = engine.optimizer
    for name, parameter in engine.module.named_parameters():
        group, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = rank * length
        inside = min(length, parameter.ds_numel - start)  # the last ranks' shares are padded
        if inside > 0:
            yield name, optimizer.fp32_partitioned_groups_flat[group], offset, start, inside


def _moments(engine, flat: Tensor) -> dict[str, Tensor]:
    """AdamW's state of `flat`, begun as torch.optim.AdamW begins it where no step has been taken."""
    state = inner_optimizer(engine).state[flat]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(flat), torch.zeros_like(flat)
    return state


def _states(engine) -> list[dict[str, Tensor]]:
    return [state for state in inner_optimizer(engine).state.values() if state]
