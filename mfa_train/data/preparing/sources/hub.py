"""Documents from a data set on the Hugging Face Hub, or of the same form on disk, through `datasets`: streamed, never
downloaded whole.

`data.dataset` is a name on the Hub, a folder laid out like a repository there, a folder that `save_to_disk` wrote, or a
loader (`json`, `parquet`, …) of `data.files`. No code of a data set is ever run. A row is a document; empty ones are
left out.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mfa_train.data.preparing.sources.document import Document, checked, falls_below
from mfa_train.data.preparing.sources.tally import Tally
from mfa_train.errors import ConfigError, DataError
from mfa_train.words import first_line

LOADERS = ("arrow", "csv", "json", "parquet", "text")
ON_DISK = "a folder on disk works without, as data.dataset=FOLDER"


class Hub:
    """Raises ConfigError where the data set, its configuration or its split can't be found or reached."""

    def __init__(self, name: str | None, config: str | None, split: str, files: list[str], text_key: str):
        if not name:
            raise ConfigError("data.dataset=null: expected a data set, as data.dataset=HuggingFaceFW/fineweb-edu")
        if bool(files) != (name in LOADERS):
            raise ConfigError(
                f"data.dataset={name} with data.files={files}: a loader ({', '.join(LOADERS)}) reads "
                "data.files, as data.dataset=parquet data.files='[corpus/*.parquet]'; others have "
                "their own"
            )
        self.name, self.config, self.split, self.text_key = name, config, split, text_key
        self.rows, self.origin = self._reached(files)

    def version(self) -> str:
        """Tells data sets apart: by the Hub's revision, names and sizes of files, or `datasets`' own fingerprint."""
        return hashlib.sha256(json.dumps([self.split, self.text_key, self.origin]).encode()).hexdigest()[:16]

    def size(self) -> None:
        """Not known of a stream."""

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        """In order. Raises DataError naming the row of what is no text, and where the stream breaks off."""
        tally = tally or Tally()
        number, place = 0, f"{self.name}:{self.split}"
        batches = self.rows.with_format("arrow").iter(batch_size=256)
        while (batch := self._next(batches, f"{place}:{number + 1}")) is not None:
            if self.text_key not in batch.column_names:
                raise DataError(
                    f"{place}: no column {self.text_key!r} among {batch.column_names}; type data.text_key=…"
                )
            for value in batch.column(self.text_key):
                number += 1
                text = value.as_py()
                if not isinstance(text, str | None):
                    raise DataError(
                        f"{place}:{number}: no text under {self.text_key!r} but {type(text).__name__}; "
                        "type data.text_key=…"
                    )
                yield from checked(f"{place}:{number}", text, 0, tally)

    def held_out(self, document: Document, fraction: float) -> bool:
        """By the text alone: the same document twice never falls into both splits."""
        return falls_below(document.utf8, fraction)

    def _reached(self, files: list[str]) -> tuple[Any, list]:
        """(the rows, what tells them from others)."""
        try:
            if _is_saved(Path(self.name)):
                return self._saved()
            return self._streamed(files)
        except (ConfigError, KeyboardInterrupt):
            raise
        except Exception as error:  # of a dozen types, from several libraries
            raise ConfigError(f"data.dataset={self.name}: {why(error, ON_DISK)}") from error

    def _saved(self) -> tuple[Any, list]:
        import datasets

        try:
            saved = datasets.load_from_disk(self.name)
        except IndexError as error:  # what `datasets` makes of no rows
            raise ConfigError(f"data.dataset={self.name}: there is no row in it") from error
        if isinstance(saved, datasets.DatasetDict):
            self._require_split(saved)
            saved = saved[self.split]
        return saved, ["saved", saved._fingerprint]

    def _streamed(self, files: list[str]) -> tuple[Any, list]:
        import datasets
        import huggingface_hub

        revision = None
        if self.name not in LOADERS and not Path(self.name).exists():
            # Fails at once where `datasets` would try for half a minute.
            revision = huggingface_hub.HfApi().dataset_info(self.name, timeout=30).sha
        builder = datasets.load_dataset_builder(
            self.name, self.config, revision=revision, data_files={self.split: files} if files else None
        )
        self._require_split(builder.config.data_files)
        told = [
            [file, os.path.getsize(file) if os.path.isfile(file) else None]
            for file in builder.config.data_files[self.split]
        ]
        return builder.as_streaming_dataset(split=self.split), [builder.config.name, revision, told]

    def _require_split(self, known: dict) -> None:
        if self.split not in known:
            raise ConfigError(f"data.dataset_split={self.split}: {self.name} has {', '.join(map(str, known))}")

    def _next(self, batches: Iterator, place: str) -> Any:
        try:
            return next(batches, None)
        except Exception as error:  # as in _reached
            raise DataError(f"{place}: {why(error, ON_DISK)}") from error


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def why(error: Exception, elsewhere: str) -> str:
    """What a person can do about it, in one line; `elsewhere` where the Hub can't be reached."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if any(isinstance(cause, GatedRepoError) for cause in causes) or "gated dataset" in str(error):
        return "gated: ask for access on its page, then log in with hf auth login"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return "no such data set on the Hub, or a private one: check the name, or log in with hf auth login"
    line = first_line(error)
    if any(isinstance(cause, ConnectionError) or "Connect" in type(cause).__name__ for cause in causes):
        return f"the Hub cannot be reached ({line}); {elsewhere}"
    return f"cannot be read ({line})"
