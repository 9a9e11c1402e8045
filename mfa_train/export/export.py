"""`mfa-train export`: the weights of one state of a run, config.json and the tokenizer, in a folder of their own."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from mfa_train import config as configs
from mfa_train.checkpoints.weights import FILE, FINAL, RunWeights, weights_of
from mfa_train.config import Config
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.data.tokenizer.exported import as_file, tokenizer_files
from mfa_train.errors import ConfigError
from mfa_train.export.formats import NATIVE, Format, Remote


def export(run: Path, out: Path, checkpoint: str = FINAL) -> str:
    """Writes the folder `out`, whole or not at all, and gives the lines that say what can load it.

    Raises DataError where the run has no such weights, ConfigError where `out` is there or can't be written, or no form
    can say the model.
    """
    if os.path.lexists(out):
        raise ConfigError(f"--out={out} is there already; type --out=FOLDER with another, or remove it")
    config = configs.of_run(run)
    form = chosen_format(config)
    settings = form.settings()
    weights = weights_of(run, config, checkpoint)
    tokenizer = weights.tokenizer()
    files, said = files_beside(form, settings, weights, tokenizer)
    _write(
        out,
        {name: form.there(name, weights.tensor(ours)) for name, ours in form.sources(weights.shapes).items()},
        files,
    )
    lines = [f"{out}: loads in transformers as {form.loads}" + trusted(form)]
    if never := ids_never_drawn(config, tokenizer):
        lines.append(
            f"ids that are no token ({len(never):,}, as {never[0]}) are kept from being drawn by generation_config.json"
        )
    return "\n".join([*lines, said] if said else lines)


def chosen_format(config: Config) -> Format:
    """The form of others that this attention has, else our own. Raises FormatCannotSay."""
    form = next((form for form in NATIVE if config.attention["name"] in form.attentions), Remote)(config)
    if isinstance(form, Remote) or form.attention.output_gate == "none":
        return form
    return Remote(config)


def files_beside(
    form: Format, settings: dict[str, Any], weights: RunWeights, tokenizer: Tokenizer
) -> tuple[dict[str, bytes], str]:
    """All files but the weights, by name, and what must be said of the tokenizer ("" where nothing must)."""
    ends = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    # In training each document stands behind the separator that ends the one before.
    settings = settings | {"dtype": str(weights.dtype).removeprefix("torch.")} | ends
    files, said = tokenizer_files(tokenizer, form.model.max_position_embeddings)
    files |= form.files() | {"config.json": as_file(settings)}
    if never := ids_never_drawn(form.config, tokenizer):
        files |= {"generation_config.json": as_file(ends | {"suppress_tokens": never})}
    return files, said


def ids_never_drawn(config: Config, tokenizer: Tokenizer) -> list[int]:
    """Ids of the model that are no token of the tokenizer."""
    known = tokenizer.known
    return [token for token in range(config.model.vocab_size) if token >= len(known) or not known[token]]


def trusted(form: Format) -> str:
    return ", with trust_remote_code=True" if isinstance(form, Remote) else ""


def _write(out: Path, weights: dict[str, torch.Tensor], files: dict[str, bytes]) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
            made = Path(beside) / "export"
            made.mkdir()
            save_file(weights, made / FILE, metadata={"format": "pt"})
            for name, content in files.items():
                (made / name).write_bytes(content)
            made.rename(out)
    except (OSError, SafetensorError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--out={out}: cannot be written ({reason}); type --out=FOLDER with one that can") from error
