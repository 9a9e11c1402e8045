"""A finished run's weights in checkpoints/final: as evaluated, under Hugging Face's names, and the tokenizer; with
training.ema their average in checkpoints/final-ema, likewise.

    1. The weights are divided over files of at most SHARD bytes; one, where they fit. File i is of rank i, around.
    2. Each rank writes its files, a tensor at a time. Under ZeRO 3 all gather the tensors in order, and each lets go of
       one before the next: no host holds more than that, however large the model.
    3. Rank 0 writes the index, the checksums and the tokenizer, and renames: the folder appears whole or not at all.

What it gives up: under ZeRO 3 one file is written after the other, as gathering takes all ranks.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mfa_train.checkpoints.safetensors_folder import divided, write_index
from mfa_train.checkpoints.streamed import write_tensors
from mfa_train.checkpoints.tokenizer import write_tokenizer
from mfa_train.checkpoints.weights import final_checkpoint, record_sums
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import TrainingError
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.saving.engine_state import averaged_weights

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
    parameters = dict(engine.module.named_parameters())
    shapes = {name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in parameters.items()}
    (dtype,) = {parameter.dtype for parameter in parameters.values()}
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
        mine = number % ranks.world_size == ranks.rank and failed is None
        turns = _Turns({name: parameters[name] for name in part}, mine)
        if mine:
            try:
                sums[file] = write_tensors(partial / file, dtype, part, turns.take)
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
    """The parameters of one file, gathered one after the other by all ranks; where they are `wanted`, for their values.
    What is whole on every rank is taken from there."""

    def __init__(self, parameters: Mapping[str, Tensor], wanted: bool):
        self.left, self.wanted = dict(parameters), wanted

    @torch.no_grad()
    def take(self, name: str) -> Tensor:
        """The next, in host memory."""
        import deepspeed

        parameter = self.left.pop(name)
        if not hasattr(parameter, "ds_id"):
            return parameter.detach().cpu()
        with deepspeed.zero.GatheredParameters(parameter):
            return parameter.detach().cpu().clone() if self.wanted else torch.empty(0)

    def pass_by(self) -> None:
        """Takes part in gathering those whose turn has not come here."""
        for name, parameter in list(self.left.items()):
            if hasattr(parameter, "ds_id"):
                self.take(name)


def _no_room(folder: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"{folder}: the final weights cannot be written ({error}); make room and type the same command again, which "
        "goes on from the last checkpoint"
    )
