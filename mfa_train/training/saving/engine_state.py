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
from mfa_train.model.decoder import weights_of_model
from mfa_train.parallel.parameters import first_value, stretch_of
from mfa_train.training.steps.optimizer import inner_optimizer


def pieces(engine) -> Iterator[Piece]:
    """All pieces that this rank holds."""
    average = inner_optimizer(engine).average
    for name, flat, offset, start, length in _located(engine):
        state = _moments(engine, flat)
        tensors = {"master": flat.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
        if average is not None:
            tensors[EMA] = average.of(flat)
        yield Piece(name, start, {kind: tensor.view(-1)[offset : offset + length] for kind, tensor in tensors.items()})
    for name, buffer in _learnt_otherwise(engine):
        unused = {kind: torch.zeros_like(buffer) for kind in ("exp_avg", "exp_avg_sq")}
        average_of_it = {} if average is None else {EMA: buffer.clone()}  # it is no average of steps: the last counts
        yield Piece(name, 0, {"master": buffer, **unused, **average_of_it})


def own_pieces(engine, rank: int, world_size: int) -> Iterator[Piece]:
    """The pieces that `rank` answers for: over all ranks each value once. Of what every rank holds, as all at stage 0,
    its share."""
    everywhere, learnt = dict(_learnt_otherwise(engine)), dict(engine.module.named_parameters())
    for piece in pieces(engine):
        if engine.zero_optimization_stage() == 0 or piece.name in everywhere:
            place, copies = _place_among_copies(learnt.get(piece.name), rank, world_size)
            piece = piece.part(len(piece) * place // copies, len(piece) * (place + 1) // copies)
        if len(piece):
            yield piece


class Values(Protocol):
    """Where weights come from: a folder, or a generator."""

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fills `out` (values,) with those of the parameter `name`, flattened, from `start` on."""


def fill(engine, values: Values) -> None:
    """Puts weights into a new engine, each rank into what it holds; AdamW has seen nothing yet. Raises what
    reading raises."""
    for name, flat, offset, start, length in _located(engine):  # the moments begin with the first step
        values.read(name, start, flat.detach().view(-1)[offset : offset + length])
    for name, buffer in _learnt_otherwise(engine):
        values.read(name, 0, buffer)
    derive_weights(engine)


@torch.no_grad()
def take_those_of_first_rank(engine) -> None:
    """Makes masters that several ranks hold those of the first of these, to the bit, at stage 0, where each rank drew
    all that it holds: processors of another kind may round another way, and nothing later would bring the copies
    together."""
    parameters = dict(engine.module.named_parameters())
    for name, flat, *_ in _located(engine):
        alike = getattr(parameters[name], "ds_zero_partition_process_group", dist.group.WORLD)  # of experts some ranks
        dist.broadcast(flat.detach(), dist.get_process_group_ranks(alike)[0], group=alike)
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


def _place_among_copies(parameter: Tensor | None, rank: int, world_size: int) -> tuple[int, int]:
    """The place of `rank` among the ranks that have all that it has of a parameter, and how many these are."""
    stretch = None if parameter is None else stretch_of(parameter)
    return (rank, world_size) if stretch is None else (rank // stretch.ranks, world_size // stretch.ranks)


def _located(engine) -> Iterator[tuple[str, Tensor, int, int, int]]:
    """Where this rank has what it holds: (parameter, flat tensor, place in it, place in the whole parameter, length) of
    each piece. A stage tells the place in what the rank's model has, which of experts may be a stretch."""
    locate = (_of_stage_0, _of_stages_1_and_2, _of_stages_1_and_2, _of_stage_3)[engine.zero_optimization_stage()]
    parameters = dict(engine.module.named_parameters())
    for name, flat, offset, start, length in locate(engine):
        yield name, flat, offset, first_value(parameters[name]) + start, length


def _of_stage_0(engine) -> Iterator[tuple[str, Tensor, int, int, int]]:
    masters = {}
    if hasattr(engine.optimizer, "fp32_groups"):  # bf16
        masters = {
            id(weight): master
            for group in zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups)
            for weight, master in zip(*group)
        }
    for name, parameter in engine.module.named_parameters():
        yield name, masters.get(id(parameter), parameter), 0, 0, parameter.numel()


def _of_stages_1_and_2(engine) -> Iterator[tuple[str, Tensor, int, int, int]]:
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


def _of_stage_3(engine) -> Iterator[tuple[str, Tensor, int, int, int]]:
    optimizer = engine.optimizer
    for name, parameter in engine.module.named_parameters():
        group, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = dist.get_rank(parameter.ds_process_group) * length
        inside = min(length, parameter.ds_numel - start)  # the last ranks' shares are padded
        if inside > 0:
            yield name, optimizer.fp32_partitioned_groups_flat[group], offset, start, inside


def _learnt_otherwise(engine) -> list[tuple[str, Tensor]]:
    """What steps change and no gradient does, whole on every rank: the biases of routers."""
    parameters = dict(engine.module.named_parameters())
    return [(name, weight) for name, weight in weights_of_model(engine.module).items() if name not in parameters]


def _moments(engine, flat: Tensor) -> dict[str, Tensor]:
    """AdamW's state of `flat`, begun as torch.optim.AdamW begins it where no step has been taken."""
    state = inner_optimizer(engine).state[flat]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(flat), torch.zeros_like(flat)
    return state


def _states(engine) -> list[dict[str, Tensor]]:
    return [state for state in inner_optimizer(engine).state.values() if state]
