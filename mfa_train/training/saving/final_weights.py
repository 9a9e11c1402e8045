"""A finished run's weights in checkpoints/final: as evaluated, under Hugging Face's names, and the tokenizer."""

import shutil
from pathlib import Path

from mfa_train.checkpoints.streamed import write_tensors
from mfa_train.checkpoints.tokenizer import write_tokenizer
from mfa_train.checkpoints.weights import FILE, record_sum
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import TrainingError
from mfa_train.training.processes.ranks import Ranks


def save_weights(engine, tokenizer: Tokenizer, folder: Path, ranks: Ranks) -> None:
    """Writes the model as it was evaluated, and the tokenizer beside it; the folder appears whole or not at all.

    Every rank takes part: under ZeRO 3 each holds a share. Raises TrainingError where there is no room.
    """
    import deepspeed

    weights = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters(parameter, enabled=hasattr(parameter, "ds_id")):
            if ranks.is_rank_zero:
                weights[name] = parameter.detach().cpu().clone()

    def write() -> None:
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            (dtype,) = {weight.dtype for weight in weights.values()}
            shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
            record_sum(partial, write_tensors(partial / FILE, dtype, shapes, weights.__getitem__))
            write_tokenizer(tokenizer, partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(
                f"{folder}: the final weights cannot be written ({error}); make room and type the same "
                "command again, which goes on from the last checkpoint"
            ) from error

    ranks.on_rank_zero(write)
