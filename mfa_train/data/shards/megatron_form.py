"""Tokens on disk in Megatron's `.bin/.idx` form, which Megatron-LM, GPT-NeoX and others read as well.

NAME.bin holds the tokens of all documents end to end; NAME.idx their type, lengths and places. Both appear whole or not
at all, the index last.
"""

import os
import struct
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, type code, number of sequences, number of document bounds."""


class ShardWriter:
    """Writes `prefix`.bin and .idx, one sequence a document, as they come: uint16 where the vocabulary allows, else
    int32."""

    def __init__(self, prefix: Path, vocab_size: int):
        self.code = 8 if vocab_size <= 65500 else 4  # Megatron's own bound
        self.dtype, self.lengths = np.dtype(DTYPES[self.code]), array("i")
        self.bin_path, self.idx_path = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
        self.file = open(f"{self.bin_path}.partial", "wb")
        self.tokens = 0

    def add(self, document: np.ndarray) -> None:
        self.file.write(document.astype(self.dtype).tobytes())
        self.lengths.append(len(document))
        self.tokens += len(document)

    def finish(self) -> None:
        """Gives both files their names, the index last."""
        self.file.close()
        sizes = np.array(self.lengths, dtype=np.int32)
        pointers = np.concatenate(([0], np.cumsum(sizes[:-1], dtype=np.int64))) * self.dtype.itemsize
        with open(f"{self.idx_path}.partial", "wb") as file:
            file.write(HEADER.pack(MAGIC, VERSION, self.code, len(sizes), len(sizes) + 1))
            for part in (sizes, pointers[: len(sizes)].astype(np.int64), np.arange(len(sizes) + 1, dtype=np.int64)):
                file.write(part.tobytes())
        os.replace(f"{self.bin_path}.partial", self.bin_path)
        os.replace(f"{self.idx_path}.partial", self.idx_path)


def write_shard(prefix: Path, documents: Iterable[np.ndarray], vocab_size: int) -> None:
    """A shard of `documents` (tokens,)."""
    writer = ShardWriter(prefix, vocab_size)
    for document in documents:
        writer.add(document)
    writer.finish()
