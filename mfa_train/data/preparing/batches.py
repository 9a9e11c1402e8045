"""Documents, as many at a time as are encoded together."""

from collections.abc import Iterator
from typing import NamedTuple

from mfa_train.data.preparing.sources import Document

BATCH_BYTES = 2**23
"""Text that is encoded at once: enough for all cores, little enough for memory."""
BATCH_DOCUMENTS = 2**14
"""Short ones take more memory than their text."""


class Batch(NamedTuple):
    documents: list[Document]
    ends_shard: bool


def batches(documents: Iterator[Document], shard_bytes: int) -> Iterator[Batch]:
    """All documents, the last batch of a shard marked: it holds at least `shard_bytes` of text."""
    shard = size = 0
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        size += len(document.utf8)
        if shard + size >= shard_bytes:
            yield Batch(batch, True)
            shard, size, batch = 0, 0, []
        elif size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield Batch(batch, False)
            shard, size, batch = shard + size, 0, []
    if batch:
        yield Batch(batch, False)
