"""Tokens on disk in Megatron's `.bin/.idx` form, which Megatron-LM, GPT-NeoX and others read as well.

NAME.bin holds the tokens of all documents end to end; NAME.idx their type, lengths and places. Both appear whole or not
at all, the index last.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mfa_train.errors import DataError

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


class TokenShard:
    """A shard opened for reading, its tokens mapped into memory and not read before they are asked for.

    `tokens` (num_tokens,) are those of all documents end to end. Raises DataError for a file that is not what it
    claims to be.
    """

    def __init__(self, prefix: Path):
        bin_path, idx_path = prefix.with_suffix(".bin"), prefix.with_suffix(".idx")
        for path in (bin_path, idx_path):
            if not path.is_file():
                raise DataError(f"{path}: no such file; a shard is NAME.bin beside NAME.idx")
        index = idx_path.read_bytes()
        if len(index) < HEADER.size or not index.startswith(MAGIC):
            raise DataError(f"{idx_path}: not a Megatron index (it does not start with MMIDIDX)")
        _, version, code, sequences, _ = HEADER.unpack_from(index)
        if version != VERSION or code not in DTYPES:
            raise DataError(f"{idx_path}: Megatron index of version {version} with type code {code}; expected version 1 "
                            f"and whole numbers")
        if len(index) < HEADER.size + 4 * sequences:
            raise DataError(f"{idx_path}: cut off: {len(index)} bytes can't hold the lengths of {sequences} documents")
        self.num_tokens = int(np.frombuffer(index, np.int32, sequences, HEADER.size).sum(dtype=np.int64))
        dtype = np.dtype(DTYPES[code])
        found = bin_path.stat().st_size
        if found != self.num_tokens * dtype.itemsize:
            raise DataError(f"{bin_path}: {found} bytes, but its index tells of {self.num_tokens * dtype.itemsize}: the "
                            f"file is cut off or another's; prepare the corpus again")
        self.tokens = np.memmap(bin_path, dtype=dtype, mode="r") if self.num_tokens else np.empty(0, dtype)


class TokenShards:
    """Shards one behind the other, as one run of tokens. Only what is read is mapped into memory and touched."""

    def __init__(self, prefixes: Sequence[Path]):
        self.shards = [TokenShard(prefix) for prefix in prefixes]
        self.ends = np.cumsum([shard.num_tokens for shard in self.shards], dtype=np.int64)
        self.num_tokens = int(self.ends[-1]) if self.shards else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) as (stop - start,) int64; both within num_tokens."""
        parts = []
        first = int(np.searchsorted(self.ends, start, side="right"))
        for shard, end in zip(self.shards[first:], self.ends[first:].tolist()):
            begin = end - shard.num_tokens
            parts.append(shard.tokens[max(start - begin, 0) : stop - begin])
            if stop <= end:
                break
        return np.concatenate(parts).astype(np.int64)
