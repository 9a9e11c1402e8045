"""The texts of a Parquet file, row by row, in bounded memory: a dictionary's strings are not spread out, and no
column's part that would unpack beyond what any text does is begun."""

import io
from collections.abc import Iterator

from mfa_train.errors import DataError
from mfa_train.words import first_line

BATCH_BYTES = 2**24
"""Text that is unpacked at once, as far as the file tells."""
SUSPICIOUS_BYTES, SUSPICIOUS_RATIO = 2**28, 1000
"""A column's part of a row group that unpacks beyond both is no text."""


def rows(name: str, stream: io.RawIOBase, text_key: str) -> Iterator[tuple[str, str | None]]:
    """(place, text) of each row of the column `text_key`; None where it has none. Raises DataError, naming file and
    row, for what is no whole Parquet file of text."""
    import pyarrow
    import pyarrow.parquet

    if not stream.seekable():
        raise DataError(f"{name}: Parquet is read in parts, and this server gives only the whole: fetch it first")
    number = 0
    try:
        stream.seek(0, io.SEEK_SET)
        metadata = pyarrow.parquet.read_metadata(stream)
        column = _column(name, metadata.schema, text_key)
        table = pyarrow.parquet.ParquetFile(stream, metadata=metadata, read_dictionary=[text_key], buffer_size=2**20)
        for group in range(table.num_row_groups):
            told = table.metadata.row_group(group)
            size, packed = told.column(column).total_uncompressed_size, told.column(column).total_compressed_size
            if size > max(SUSPICIOUS_BYTES, SUSPICIOUS_RATIO * packed):
                raise DataError(
                    f"{name}: row group {group} unpacks from {packed:,} to {size:,} bytes of {text_key!r}, which no "
                    "text does; "
                    "write it anew, with smaller row groups"
                )
            several = max(1, min(1024, BATCH_BYTES * told.num_rows // max(1, size)))
            for batch in table.iter_batches(batch_size=several, row_groups=[group], columns=[text_key]):
                for value in batch.column(0):
                    number += 1
                    text = value.as_py()
                    if not isinstance(text, str | None):
                        raise DataError(
                            f"{name}:{number}: no text under {text_key!r} but {type(text).__name__}; type "
                            "data.text_key=…"
                        )
                    yield f"{name}:{number}", text
    except (pyarrow.ArrowException, UnicodeDecodeError, MemoryError, OSError, ValueError) as error:
        line = first_line(error)
        raise DataError(f"{name}: not a whole Parquet file of text (behind row {number}: {line})") from error


def _column(name: str, schema, text_key: str) -> int:
    """The number of `text_key` among the file's flat columns."""
    paths = [column.path for column in schema]
    if text_key in paths:
        return paths.index(text_key)
    if nested := [path for path in paths if path.startswith(f"{text_key}.")]:
        raise DataError(
            f"{name}: column {text_key!r} is no text but holds {', '.join(nested[:5])}; type data.text_key=…"
        )
    raise DataError(f"{name}: no column {text_key!r} among {paths[:20]}; type data.text_key=…")
