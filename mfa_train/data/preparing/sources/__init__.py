"""Where documents come from: one file a source, all with the contract `Source`."""

from collections.abc import Iterator
from typing import Protocol

from mfa_train.config import DataConfig
from mfa_train.data.preparing.sources import python_stdlib
from mfa_train.data.preparing.sources.document import Document
from mfa_train.data.preparing.sources.files import Files
from mfa_train.data.preparing.sources.hub import Hub
from mfa_train.data.preparing.sources.tally import Tally
from mfa_train.errors import ConfigError, did_you_mean

__all__ = ["Document", "Source", "Tally", "open_source"]


class Source(Protocol):
    def version(self) -> str:
        """Changes when the documents do."""

    def size(self) -> int | None:
        """Bytes that reading all documents reads, as `Document.position` counts them; None where nobody knows."""

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        """The same ones in the same order each time; `tally` counts what they were made of."""

    def held_out(self, document: Document, fraction: float) -> bool:
        """Whether the document is kept from training."""


def open_source(data: DataConfig) -> Source:
    """The source that data.source names. Raises ConfigError where it cannot be found or reached."""
    if data.source == "python_stdlib":
        return python_stdlib
    if data.source == "files":
        return Files(data.files, data.text_key)
    if data.source == "hub":
        return Hub(data.dataset, data.dataset_config, data.dataset_split, data.files, data.text_key)
    known = ("python_stdlib", "files", "hub", "megatron")
    raise ConfigError(f"data.source={data.source}: no such source.{did_you_mean(data.source, known)}")
