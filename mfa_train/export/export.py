"""`mfa-train export`: one state of a run as others load it, in a folder of its own.

    1. The form is chosen and asked whether it can say the model: what it cannot is refused here.
    2. The state's files are found and their headers read; the tokenizer is put into the form of transformers.
    3. In a folder beside, the weights are written a tensor at a time, then config.json, the tokenizer and README.md.
    4. All is flushed and the folder renamed: it appears whole or not at all.

What it gives up: an export that is killed leaves its folder beside, .NAME.…, to be removed by hand.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mfa_train import config as configs
from mfa_train.checkpoints.folders import flush
from mfa_train.checkpoints.weights import DTYPES, FINAL, config_of_state, weights_of
from mfa_train.config import Config
from mfa_train.config.quantities import written
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.data.tokenizer.exported import as_file, tokenizer_files
from mfa_train.errors import ConfigError
from mfa_train.export.card import model_card
from mfa_train.export.formats import NATIVE, REMOTE, Format, FormatCannotSay, type_name
from mfa_train.export.weight_files import total_bytes, write_weights

FORMATS = ("auto", "hf", "remote")
"""hf: the form of others that the attention has; remote: our own code; auto: hf where there is one, else remote."""
SHARD_BYTES = 5 * 10**9
"""As transformers' save_pretrained has it."""


def export(
    run: Path,
    out: Path | None = None,
    checkpoint: str = FINAL,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    form: str = "auto",
    verify: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> str:
    """Writes the folder `out` (none: in the run's), whole or not at all, and gives the lines that say what can load it.

    `dtype`: a key of DTYPES, or none for the one in which the weights were evaluated. `tell` is told of each of several
    files. Raises FormatCannotSay where the form lacks what the model has, ConfigError where the run has no such state
    or `out` is there or can't be written, DataError where what it has is damaged.
    """
    if out is None:
        state = checkpoint.removeprefix(FINAL).removeprefix("-")
        out = run / (f"export-{state}" if state else "export")
    if os.path.lexists(out):
        raise ConfigError(f"--out={out} is there already; type --out=FOLDER with another, or remove it")
    config = config_of_state(configs.of_run(run), checkpoint)
    chosen, settings = chosen_format(config, form)
    weights = weights_of(run, config, checkpoint, verify=verify)
    tokenizer, held_in = weights.tokenizer(), DTYPES[dtype] if dtype else weights.dtype
    files, said = files_beside(chosen, settings, tokenizer, held_in)
    size = total_bytes(chosen.shapes(weights.in_model), held_in)
    with _appearing(out, size) as folder:
        sums = write_weights(folder, chosen, weights, held_in, shard_bytes, tell)
        files["README.md"] = model_card(run, chosen, weights, held_in, sums, tokenizer.sha256)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    lines = [
        f"{out}: the {'averaged ' if weights.averaged else ''}weights after step {weights.step:,}, {written(size)} in "
        f"{type_name(held_in)}",
        f"loads in transformers as {chosen.loads}" + (", with trust_remote_code=True" if chosen.remote_code else ""),
        *(["vllm serve takes it (docs/serving.md)"] if chosen.served_by_vllm else []),
    ]
    if never := ids_never_drawn(config, tokenizer):
        lines.append(
            f"ids that are no token ({len(never):,}, as {never[0]}) are kept from being drawn by generation_config.json"
        )
    return "\n".join([*lines, said] if said else lines)


def chosen_format(config: Config, form: str) -> tuple[Format, dict[str, Any]]:
    """What `form`, one of FORMATS, is for this model, and its config.json. Raises FormatCannotSay."""
    name = config.attention["name"]
    native = next((one for one in NATIVE if one.has(config)), None)
    if form == "remote" or (form == "auto" and native is None):
        made = REMOTE(config)
        return made, made.settings()
    if native is None:
        raise FormatCannotSay(f"--format={form}: transformers has no class for attention={name}: type --format remote")
    try:
        made = native(config)
        return made, made.settings()
    except FormatCannotSay as error:
        raise FormatCannotSay(f"{error}: type --format remote") from error


def files_beside(
    form: Format, settings: dict[str, Any], tokenizer: Tokenizer, dtype: torch.dtype
) -> tuple[dict[str, bytes], str]:
    """All files but the weights and the card, by name, and what must be said of the tokenizer ("" where nothing
    must)."""
    ends = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    # In training each document stands behind the separator that ends the one before.
    settings = settings | {"dtype": type_name(dtype)} | ends
    files, said = tokenizer_files(tokenizer, form.model.max_position_embeddings)
    files |= form.files() | {"config.json": as_file(settings)}
    if never := ids_never_drawn(form.config, tokenizer):
        files |= {"generation_config.json": as_file(ends | {"suppress_tokens": never})}
    return files, said


def ids_never_drawn(config: Config, tokenizer: Tokenizer) -> list[int]:
    """Ids of the model that are no token of the tokenizer."""
    known = tokenizer.known
    return [token for token in range(config.model.vocab_size) if token >= len(known) or not known[token]]


@contextmanager
def _appearing(out: Path, size: int) -> Iterator[Path]:
    """A folder to write into, which is `out` when the block is over. Raises ConfigError where there is no room for
    `size` bytes, or it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(out.parent).free) < size:
            raise ConfigError(
                f"--out={out}: the weights take {written(size)}, and its disk has {written(free)} left; type "
                "--out=FOLDER with one that has more"
            )
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
            made = Path(beside) / "export"
            made.mkdir()
            yield made
            for path in (*made.iterdir(), made):
                flush(path)
            made.rename(out)
            flush(out.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"--out={out}: cannot be written ({reason}); type --out=FOLDER with one that can") from error
