"""A finished run's weights in checkpoints/final: as evaluated, under Hugging Face's names, and the tokenizer; with
training.ema their average in checkpoints/final-ema, likewise.

    1. The weights are divided over files of at most SHARD bytes; one, where they fit. File i is of rank i, around.
    2. Each rank writes its files, a tensor at a time. Under ZeRO 3 all gather the tensors in order, and each lets go of
       one before the next: no host holds more than that, however large the model. Experts that ranks share out are
       sent, a rank's part at a time, to the one that writes them.
    3. Rank 0 writes the index, the checksums and the tokenizer, and renames: the folder appears whole or not at all.

What it gives up: under ZeRO 3 one file is written after the other, as gathering takes all ranks.
"""

import contextlib
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mfa_train.checkpoints.safetensors_folder import divided, write_index
from mfa_train.checkpoints.streamed import write_mixed
from mfa_train.checkpoints.tokenizer import write_tokenizer
from mfa_train.checkpoints.weights import final_checkpoint, record_sums
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import TrainingError
from mfa_train.feed_forward.names import held_in, in_model, on_disk
from mfa_train.model.decoder import weights_of_model
from mfa_train.parallel.groups import consecutive
from mfa_train.parallel.parameters import Stretch, stretch_of, whole_shape
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.saving.engine_state import averaged_weights
from mfa_train.training.steps.expert_parallel import expert_group_handle

SHARD = 5 * 10**9
"""Bytes."""


def save_final_weights(engine, tokenizer: Tokenizer, run: Path, ranks: Ranks, averaged: bool) -> None:
    """`save_weights` of the run in the folder `run`, before them those of the average where it is `averaged`; that of
    an earlier end goes where it is not."""
    average = final_checkpoint(run, averaged=True)
    if averaged:
        with averaged_weights(engine):
            save_weights(engine, tokenizer, average, ranks)
    else:
        ranks.on_rank_zero(lambda: shutil.rmtree(average, ignore_errors=True))
    save_weights(engine, tokenizer, final_checkpoint(run), ranks)


def save_weights(engine, tokenizer: Tokenizer, folder: Path, ranks: Ranks) -> None:
    """Writes the model as it was evaluated, and the tokenizer beside it. Every rank takes part. Raises TrainingError,
    on all of them, where there is no room."""
    weights = weights_of_model(engine.module)
    shapes = on_disk({name: whole_shape(weight) for name, weight in weights.items()})
    (dtype,) = {parameter.dtype for parameter in engine.module.parameters()}
    files = divided(shapes, dtype, SHARD)
    partial = folder.with_name(f"{folder.name}.partial")

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise _no_room(folder, error) from error

    ranks.on_rank_zero(begin)
    sums: dict[str, str] = {}
    failed: Exception | None = None
    for number, (file, part) in enumerate(files.items()):
        writer = number % ranks.world_size
        mine = writer == ranks.rank and failed is None
        turns = _Turns(weights, part, mine, writer)
        if mine:
            try:
                forms = {name: (held_in(name, dtype), shape) for name, shape in part.items()}
                sums[file] = write_mixed(partial / file, forms, turns.take)
            except Exception as error:  # the others still gather with this one
                failed = error
        turns.pass_by()
    everyones = ranks.gather_objects((sums, failed))

    def publish() -> None:
        try:
            for _, error in everyones:
                if error is not None:
                    raise error
            of_file = {file: digest for theirs, _ in everyones for file, digest in theirs.items()}
            write_index(partial, files, dtype)
            record_sums(partial, {file: of_file[file] for file in files})
            write_tokenizer(tokenizer, partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _no_room(folder, error) from error

    ranks.on_rank_zero(publish)


class _Turns:
    """The weights of one file, by their names and shapes on disk. The model's parameters that hold them are gathered
    one after the other by all ranks; where they are `wanted`, for their values, on the rank `writer` at most. What is
    whole on every rank is taken from there."""

    def __init__(
        self, parameters: Mapping[str, Tensor], part: Mapping[str, tuple[int, ...]], wanted: bool, writer: int
    ):
        self.parameters, self.part, self.wanted, self.writer = parameters, part, wanted, writer
        self.left = list(dict.fromkeys(in_model(name, shape).parameter for name, shape in part.items()))
        """Parameters whose turn has not come."""
        self.gathered: tuple[str, Tensor] = "", torch.empty(0)
        """The one whose turn it is."""

    def take(self, name: str) -> Tensor:
        """The next weight, in host memory."""
        shape = self.part[name]
        parameter, start = in_model(name, shape)
        if self.gathered[0] != parameter:
            self._gather(parameter)
        return self.gathered[1].view(-1)[start : start + math.prod(shape)].view(shape)

    @torch.no_grad()
    def _gather(self, name: str) -> None:
        import deepspeed

        parameter = self.parameters[name]
        self.left.remove(name)
        self.gathered = "", torch.empty(0)  # before there is another
        stretch, sharded = stretch_of(parameter), hasattr(parameter, "ds_id")
        if not sharded and stretch is None:
            self.gathered = name, parameter.detach().cpu()
            return
        with deepspeed.zero.GatheredParameters(parameter) if sharded else contextlib.nullcontext():
            if stretch is not None:
                self.gathered = name, self._of_all_ranks(parameter.detach(), stretch)
            else:
                self.gathered = name, parameter.detach().cpu().clone() if self.wanted else torch.empty(0)

    def _of_all_ranks(self, part: Tensor, stretch: Stretch) -> Tensor:
        """The whole of a parameter of which this rank has `part`, where it is wanted. The ranks of the writer's expert
        group send theirs, one after the other."""
        (group,) = (group for group in consecutive(dist.get_world_size(), stretch.ranks) if self.writer in group)
        if dist.get_rank() not in group:
            return torch.empty(0)
        whole, failed = torch.empty(0), None
        try:
            if self.wanted:
                whole = torch.empty((stretch.experts, *part.shape[1:]), dtype=part.dtype)
        except (MemoryError, RuntimeError) as error:  # the others still send
            failed = error
        for place, rank in enumerate(group):
            sent = part.contiguous() if rank == dist.get_rank() else torch.empty_like(part)
            dist.broadcast(sent, rank, group=expert_group_handle(stretch.ranks))
            if len(whole):
                whole[place * len(part) : (place + 1) * len(part)].copy_(sent)
        if failed is not None:
            raise failed
        return whole

    def pass_by(self) -> None:
        """Takes part in gathering those whose turn has not come here."""
        for name in list(self.left):
            if hasattr(self.parameters[name], "ds_id") or stretch_of(self.parameters[name]) is not None:
                self._gather(name)


def _no_room(folder: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"{folder}: the final weights cannot be written ({error}); make room and type the same command again, which "
        "goes on from the last checkpoint"
    )
