"""A run's final weights as safetensors, under Hugging Face's names."""

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mfa_train.data.tokenizer import Tokenizer, file_name
from mfa_train.errors import TrainingError
from mfa_train.training.ranks import Ranks

FILE = "model.safetensors"


def save_weights(engine, tokenizer: Tokenizer, folder: Path, ranks: Ranks) -> None:
    """Writes the model as it was evaluated, and the tokenizer beside it; the folder appears whole or not at all.

    Every rank takes part: under ZeRO 3 each holds a share. Raises TrainingError where there is no room.
    """
    import deepspeed

    weights = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters(parameter, enabled=hasattr(parameter, "ds_id")):
            if ranks.first:
                weights[name] = parameter.detach().cpu().clone()

    def write() -> None:
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            save_file(weights, partial / FILE)
            (partial / file_name(tokenizer.content)).write_bytes(tokenizer.content)  # its file may have left the cache
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(f"{folder}: the final weights cannot be written ({error}); make room and type the same "
                                "command again, which goes on from the last checkpoint") from error

    ranks.on_first(write)


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Fills `model` with what `save_weights` wrote, in the model's own precision."""
    weights = load_file(folder / FILE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
