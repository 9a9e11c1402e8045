"""Compressed files as streams, by their ending. All of them read to the last frame and raise where one is cut off."""

import bz2
import gzip
import io
import lzma
import zlib
from typing import BinaryIO

import zstandard

Damaged = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What reading a damaged file raises, beside OSError."""


class _ZstdFile(io.RawIOBase):
    """zstandard's own reader ends after the first of several frames, and doesn't notice a missing end."""

    def __init__(self, raw: BinaryIO):
        self.raw, self.frame, self.compressed, self.text = raw, None, b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.text:
            if not self.compressed and not (part := self.raw.read(2**16)):
                if self.frame is not None:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                return 0
            if not self.compressed:
                self.compressed = part
            self.frame = self.frame or zstandard.ZstdDecompressor().decompressobj()
            self.text, self.compressed = self.frame.decompress(self.compressed), b""
            if self.frame.eof:
                self.compressed, self.frame = self.frame.unused_data, None
        count = min(len(buffer), len(self.text))
        buffer[:count], self.text = self.text[:count], self.text[count:]
        return count


READERS = {
    ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open,
    ".zst": lambda raw: io.BufferedReader(_ZstdFile(raw), 2**20),
}


def opened(name: str, raw: BinaryIO) -> tuple[str, BinaryIO]:
    """(name without the compression's ending, stream of what is inside)."""
    for ending, reader in READERS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), reader(raw)
    return name, raw
