"""A run's final weights as safetensors, under Hugging Face's names, and the tokenizer that its corpus was made with.

separator.json beside them says which token stood behind each document: {"format", "token", "id"}. Runs from before
there was one have none; then the tokenizer is asked as it was then.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mfa_train.data.tokenizer import Tokenizer, file_name, open_recorded
from mfa_train.errors import DataError, TrainingError
from mfa_train.training.processes.ranks import Ranks

FILE = "model.safetensors"
SEPARATOR, SEPARATOR_FORMAT = "separator.json", 1


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
            save_file(weights, partial / FILE)
            (partial / file_name(tokenizer.content)).write_bytes(tokenizer.content)  # its file may have left the cache
            record = {"format": SEPARATOR_FORMAT, **tokenizer.separator.record}
            (partial / SEPARATOR).write_text(json.dumps(record) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(
                f"{folder}: the final weights cannot be written ({error}); make room and type the same "
                "command again, which goes on from the last checkpoint"
            ) from error

    ranks.on_rank_zero(write)


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Fills `model` with the weights of `folder`, in the model's own precision. Raises DataError where they are another
    model's."""
    require_weights_of(model, weights, folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


def require_weights_of(model: torch.nn.Module, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Raises DataError where the weights of `folder` are another model's."""
    for name, parameter in model.named_parameters():
        if name not in weights or weights[name].shape != parameter.shape:
            there = f"in {tuple(weights[name].shape)}" if name in weights else "not there"
            raise DataError(
                f"{folder / FILE}: {name} is {there}, where the run's config.yaml says {tuple(parameter.shape)}; the "
                "folder was changed by hand, or is damaged: train again with resume=never"
            )


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The final weights by name. Raises DataError where there are none, or they are damaged."""
    if not folder.is_dir():
        raise DataError(f"{folder.parent.parent}: the run has no final weights at {folder}; it has not finished")
    try:
        return load_file(folder / FILE)
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{folder}: the weights cannot be read ({error}); train again with resume=never") from error


def final_tokenizer(folder: Path, eos_token: str | None) -> Tokenizer:
    """The tokenizer beside the final weights. `eos_token`: the run's data.eos_token, which alone told of it in older
    runs. Raises DataError."""
    try:
        record = json.loads((folder / SEPARATOR).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("format") != SEPARATOR_FORMAT:
            raise DataError(
                f"{folder / SEPARATOR}: of another form than format {SEPARATOR_FORMAT}, of a later version?"
            )
    except FileNotFoundError:
        record = None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / SEPARATOR}: cannot be read ({error}); train again with resume=never") from error
    return open_recorded(folder, record, eos_token)
