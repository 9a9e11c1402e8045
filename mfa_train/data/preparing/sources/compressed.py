"""Compressed files as streams, known by their first bytes. All frames are read, in steps of bounded size; what is cut
off, damaged or follows the last frame is an error that tells where.

A frame can't ask for more memory than WINDOW: a small file that would unpack to gigabytes costs no more than what is
read of it.
"""

import bz2
import io
import lzma
import re
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

import zstandard

WINDOW = 2**27
"""Bytes that a frame may look back: what zstd itself allows without --long."""
STEP = 2**20
"""Bytes that are unpacked at once, where the library can be told."""
ZSTD_STEP = 512
"""Compressed bytes that zstandard is given at once, which can't be told: four of them become 128 KiB at most."""
CHUNK = 2**16


class Damaged(Exception):
    """What is wrong, and behind which byte of the compressed file."""


class Unpacker(Protocol):
    """Of one frame."""

    def decompress(self, compressed: bytes) -> bytes:
        """What it gives next; `compressed` follows what it was given before."""
        ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


class _Gzip:
    def __init__(self):
        self.inner = zlib.decompressobj(wbits=31)

    def decompress(self, compressed: bytes) -> bytes:
        return self.inner.decompress(self.inner.unconsumed_tail + compressed, STEP)

    @property
    def needs_input(self) -> bool:
        return not self.inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def unused_data(self) -> bytes:
        return self.inner.unused_data


class _Bounded:
    """bz2's and lzma's own, in steps."""

    def __init__(self, inner: Any):
        self.inner = inner

    def decompress(self, compressed: bytes) -> bytes:
        return self.inner.decompress(compressed, STEP)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Zstd:
    def __init__(self):
        self.inner = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()
        self.waiting = memoryview(b"")

    def decompress(self, compressed: bytes) -> bytes:
        self.waiting = memoryview(compressed) if compressed else self.waiting
        part, self.waiting = self.waiting[:ZSTD_STEP], self.waiting[ZSTD_STEP:]
        return self.inner.decompress(part) if part else b""

    @property
    def needs_input(self) -> bool:
        return not self.waiting

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def unused_data(self) -> bytes:
        return self.inner.unused_data + bytes(self.waiting)


FORMS: dict[str, tuple[re.Pattern[bytes], Callable[[], Unpacker]]] = {
    "gz": (re.compile(rb"\x1f\x8b"), _Gzip),
    "bz2": (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90|.{0,5}\Z)", re.DOTALL), lambda: _Bounded(bz2.BZ2Decompressor())),
    "xz": (re.compile(rb"\xfd7zXZ\0"), lambda: _Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * WINDOW))),
    "zst": (re.compile(rb"(\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"), _Zstd),
}
"""What a frame begins with (also a skippable one of zstd), and what unpacks one."""
ENDINGS = {".gz": "gz", ".gzip": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zstd": "zst"}
MAGIC_BYTES = 10


def form_of(head: bytes) -> str | None:
    """The compression of a file that begins with `head`."""
    if len(head) < 4:
        return None
    return next((form for form, (magic, _) in FORMS.items() if magic.match(head[:MAGIC_BYTES])), None)


def unpacked(raw: BinaryIO, form: str) -> io.BufferedReader:
    """The stream of what is inside. Reading it raises Damaged."""
    return io.BufferedReader(_Frames(raw, form), CHUNK)


class _Frames(io.RawIOBase):
    def __init__(self, raw: BinaryIO, form: str):
        self.raw, self.form = raw, form
        self.magic, self.unpacker = FORMS[form]
        self.frame: Unpacker | None = None
        self.frames = 0
        self.compressed, self.text, self.taken = b"", memoryview(b""), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self.text:
                if (frame := self.frame or self._begun()) is None:
                    return 0
                self._step(frame)
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
            raise Damaged(f"behind byte {self.taken - len(self.compressed):,}: {_mend(error)}") from error
        count = min(len(buffer), len(self.text))
        buffer[:count], self.text = self.text[:count], self.text[count:]
        return count

    def _step(self, frame: Unpacker) -> None:
        ended = False
        if frame.needs_input:
            ended = not self.compressed and not self._more()
            compressed, self.compressed = self.compressed, b""
        else:
            compressed = b""
        self.text = memoryview(frame.decompress(compressed))
        if frame.eof:
            self.compressed, self.frame = frame.unused_data, None
        elif ended and not self.text:
            raise EOFError("it ends inside a frame")

    def _begun(self) -> Unpacker | None:
        """The next frame, where there is one; behind the last one gz and xz may be filled up with zeros."""
        while len(self.compressed) < MAGIC_BYTES and self._more():
            pass
        if self.frames and self.form in ("gz", "xz"):
            while self.compressed[:1] == b"\0":
                self.compressed = self.compressed.lstrip(b"\0")
                while len(self.compressed) < MAGIC_BYTES and self._more():
                    pass
        if not self.compressed:
            if not self.frames:
                raise EOFError("it is empty")
            return None
        if not self.magic.match(self.compressed[:MAGIC_BYTES]):
            raise EOFError(f"{'what follows' if self.frames else 'its beginning'} is no {self.form} frame")
        self.frame, self.frames = self.unpacker(), self.frames + 1
        return self.frame

    def _more(self) -> bool:
        part = self.raw.read(CHUNK)
        self.compressed, self.taken = self.compressed + part, self.taken + len(part)
        return bool(part)


def _mend(error: Exception) -> str:
    told = str(error).strip() or type(error).__name__
    if "too much memory" in told or "Memory usage limit" in told:
        return f"{told}: its window is above {WINDOW:,} bytes; compress it anew, without --long or --ultra"
    return told
