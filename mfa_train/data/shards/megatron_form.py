"""Tokens on disk in Megatron's `.bin/.idx` form, which Megatron-LM, GPT-NeoX and others read as well.

NAME.bin holds the tokens of all documents end to end; NAME.idx their type, lengths and places. Both appear whole or not
at all, the index last.
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, type code, number of sequences, number of document bounds."""


def write_shard(prefix: Path, documents: Iterable[np.ndarray], vocab_size: int) -> None:
    """Writes `prefix`.bin and .idx, one sequence a document: uint16 where the vocabulary allows, else int32."""
    code = 8 if vocab_size <= 65500 else 4  # Megatron's own bound
    dtype, lengths = np.dtype(DTYPES[code]), []
    bin_path, idx_path = prefix.with_suffix(".bin"), prefix.with_suffix(".idx")
    with open(f"{bin_path}.partial", "wb") as file:
        for document in documents:
            file.write(document.astype(dtype).tobytes())
            lengths.append(len(document))
    sizes = np.array(lengths, dtype=np.int32)
    pointers = np.concatenate(([0], np.cumsum(sizes[:-1], dtype=np.int64))) * dtype.itemsize
    with open(f"{idx_path}.partial", "wb") as file:
        file.write(HEADER.pack(MAGIC, VERSION, code, len(sizes), len(sizes) + 1))
        for array in (sizes, pointers[: len(sizes)].astype(np.int64), np.arange(len(sizes) + 1, dtype=np.int64)):
            file.write(array.tobytes())
    os.replace(f"{bin_path}.partial", bin_path)
    os.replace(f"{idx_path}.partial", idx_path)
