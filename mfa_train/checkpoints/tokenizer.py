"""The tokenizer that lies with weights: in checkpoints/final and final-ema, and in checkpoints/tokenizer for all others
of a run.

separator.json beside the tokenizer's file says which token stood behind each document: {"format", "token", "id"}. Runs
from before there was one have none; then the tokenizer is asked as it was then.
"""

import json
import shutil
from pathlib import Path

from mfa_train.config import Config
from mfa_train.data.corpora import open_all
from mfa_train.data.tokenizer import Tokenizer, file_name, open_recorded
from mfa_train.errors import DataError, UserError

FINAL, FINAL_EMA, FOLDER = "final", "final-ema", "tokenizer"
SEPARATOR, SEPARATOR_FORMAT = "separator.json", 1


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Its file and separator.json, into a folder that is there. Raises OSError."""
    (folder / file_name(tokenizer.content)).write_bytes(tokenizer.content)  # its file may have left the cache
    record = {"format": SEPARATOR_FORMAT, **tokenizer.separator.record}
    (folder / SEPARATOR).write_text(json.dumps(record) + "\n", encoding="utf-8")


def keep_tokenizer(tokenizer: Tokenizer, checkpoints: Path) -> None:
    """Leaves it beside a run's checkpoints, whole or not at all, so that each can be used where the corpus is not.
    Raises OSError."""
    folder = checkpoints / FOLDER
    partial = folder.with_name(f"{FOLDER}.partial")
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir(parents=True)
    write_tokenizer(tokenizer, partial)
    partial.rename(folder)


def tokenizer_in(folder: Path, eos_token: str | None) -> Tokenizer:
    """The tokenizer in `folder`. `eos_token`: the run's data.eos_token, which alone told of it in older runs. Raises
    DataError."""
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


def tokenizer_of(config: Config, weights: Path) -> Tokenizer:
    """The tokenizer of the run's `weights`, a folder in its checkpoints/: within the final ones, beside the others, or
    that of its corpus, in runs from before it lay with the checkpoints. Raises DataError."""
    beside, within = weights.parent / FOLDER, weights.name in (FINAL, FINAL_EMA)
    if within or beside.is_dir():
        return tokenizer_in(weights if within else beside, config.data.eos_token)
    try:
        return next(iter(open_all(config.data).values())).tokenizer
    except UserError as error:
        raise DataError(
            f"{beside}: not there, as the run is of an older version, and its corpus can't be read "
            f"for the tokenizer ({error})"
        ) from error
