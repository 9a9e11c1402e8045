"""The texts of a Parquet file, row by row, in bounded memory: a dictionary's strings are not spread out, and no column's part that would
unpack beyond what any text does is begun."""

import io
from collections.abc import Iterator
from typing import BinaryIO

from mfa_train.errors import DataError

BATCH_BYTES = 2**24
"""Text that is unpacked at once, as far as the file tells."""
LARGEST_CHUNK = 2**31
"""Bytes of a column in one row group."""


def rows(name: str, stream: BinaryIO, text_key: str) -> Iterator[tuple[str, str | None]]:
    """(place, text) of each row of the column `text_key`; None where it has none. Raises DataError, naming file and row, for what is no
    whole Parquet file of text."""
    import pyarrow
    import pyarrow.parquet

    if not stream.seekable():
        raise DataError(f"{name}: Parquet is read in parts, and this server gives only the whole: fetch it first")
    number = 0
    try:
        stream.seek(0, io.SEEK_SET)
        table = pyarrow.parquet.ParquetFile(stream, read_dictionary=[text_key], buffer_size=2**20)
        if text_key not in table.schema_arrow.names:
            raise DataError(f"{name}: no column {text_key!r} among {table.schema_arrow.names}; type data.text_key=…")
        column = _column(name, table, text_key)
        for group in range(table.num_row_groups):
            told = table.metadata.row_group(group)
            size = told.column(column).total_uncompressed_size
            if size > LARGEST_CHUNK:
                raise DataError(f"{name}: row group {group} has {size:,} bytes of {text_key!r}, more than {LARGEST_CHUNK:,}; write it with "
                                "smaller row groups")
            several = max(1, min(1024, BATCH_BYTES * told.num_rows // max(1, size)))
            for batch in table.iter_batches(batch_size=several, row_groups=[group], columns=[text_key]):
                for value in batch.column(0):
                    number += 1
                    text = value.as_py()
                    if not isinstance(text, str | None):
                        raise DataError(f"{name}:{number}: no text under {text_key!r} but {type(text).__name__}; type data.text_key=…")
                    yield f"{name}:{number}", text
    except (pyarrow.ArrowException, UnicodeDecodeError, MemoryError, OSError, ValueError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{name}: not a whole Parquet file of text (behind row {number}: {line})") from error


def _column(name: str, table, text_key: str) -> int:
    """Its number among the file's flat columns."""
    for number, column in enumerate(table.schema):
        if column.path == text_key:
            return number
    raise DataError(f"{name}: column {text_key!r} is no text but {table.schema_arrow.field(text_key).type}; type data.text_key=…")
