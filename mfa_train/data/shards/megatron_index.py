"""A Megatron index (NAME.idx), whoever wrote it, checked whole: Megatron-LM's, GPT-NeoX's and ours are one form.

Behind the header: the lengths of all sequences (int32), where each starts in NAME.bin (int64, bytes), and the sequences
that documents start with, and one bound more (int64).
"""

import numpy as np

from mfa_train.data.shards.megatron_form import DTYPES, HEADER, MAGIC, VERSION
from mfa_train.errors import DataError


def index_bytes(sequences: int, bounds: int) -> int:
    return HEADER.size + 12 * sequences + 8 * bounds


class MegatronIndex:
    """The index `content`, called `name` in errors. Raises DataError for one that is no index, of a form that can't be
    read as one run of tokens, or cut off.

    `ends` (documents,) int64: where each document ends, in tokens.
    """

    def __init__(self, name: str, content: bytes):
        if len(content) < HEADER.size or not content.startswith(MAGIC):
            raise DataError(f"{name}: not a Megatron index (it does not start with MMIDIDX)")
        _, version, code, sequences, bounds = HEADER.unpack_from(content)
        if version != VERSION or code not in DTYPES:
            raise DataError(
                f"{name}: Megatron index of version {version} with type code {code}; expected version 1 "
                "and whole numbers"
            )
        expected = index_bytes(sequences, bounds)
        if len(content) != expected:
            if len(content) > expected:
                raise DataError(
                    f"{name}: damaged: {len(content)} bytes, but {sequences} sequences in {bounds - 1} documents take "
                    f"{expected}"
                )
            raise DataError(
                f"{name}: cut off: {len(content)} bytes, but {sequences} sequences in {bounds - 1} "
                f"documents need {expected}"
            )
        self.dtype = np.dtype(DTYPES[code])
        lengths = np.frombuffer(content, np.int32, sequences, HEADER.size).astype(np.int64)
        if (lengths < 0).any():
            raise DataError(f"{name}: damaged: sequence {int(np.flatnonzero(lengths < 0)[0])} has a negative length")
        starts = np.frombuffer(content, np.int64, sequences, HEADER.size + 4 * sequences)
        firsts = np.frombuffer(content, np.int64, bounds, HEADER.size + 12 * sequences)
        sequence_ends = np.cumsum(lengths)
        if not np.array_equal(starts, (sequence_ends - lengths) * self.dtype.itemsize):
            raise DataError(
                f"{name}: its sequences do not lie end to end; write them anew with Megatron's merge_datasets.py"
            )
        covered = bounds and firsts[0] == 0 and firsts[-1] == sequences and (np.diff(firsts) >= 0).all()
        if not covered:
            raise DataError(f"{name}: damaged: the documents' bounds do not cover its {sequences} sequences")
        self.ends = np.concatenate(([0], sequence_ends))[firsts[1:]]
        self.num_tokens = int(lengths.sum())
