"""Files and folders in an archive, read where they stand as those of this machine are.

Nothing is unpacked, and no name in an archive is a path of this machine: a file is found among the archive's own names
and read into memory. So what a stranger put into one can reach nothing outside. A file that cannot be read costs its
run alone: `Damaged`.
"""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal, NamedTuple

from mfa_train.archive.directory import BROKEN, Archive

SUFFIX = ".zip"
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those that can be unpacked a bounded piece at a time."""
ENCRYPTED = 1
"""The flag of a file that is."""
BLOCK = 2**18


class Damaged(ValueError):
    """A file in an archive that cannot be read, and why."""


class Size(NamedTuple):
    """What `Path.stat` tells of a file, as far as an archive knows it."""

    st_size: int


class Archived:
    """A file or folder in an archive, with those of pathlib's methods that readers of runs need."""

    def __init__(self, archive: Archive, inside: str):
        self.archive, self.inside = archive, inside

    def __str__(self) -> str:
        return f"{self.archive.path}/{self.inside}" if self.inside else str(self.archive.path)

    def __truediv__(self, name: str) -> "Archived":
        return Archived(self.archive, f"{self.inside}/{name}" if self.inside else name)

    @property
    def name(self) -> str:
        return PurePosixPath(self.inside).name or self.archive.path.stem

    def resolve(self) -> Path:
        """What tells it from every other file."""
        return self.archive.path.resolve() / self.inside

    def is_file(self) -> bool:
        return self.inside in self.archive.files

    def is_dir(self) -> bool:
        return self.inside in self.archive.folders

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> "Iterator[Archived]":
        return (self / name for name in sorted(self.archive.folders[self.inside]))

    def stat(self) -> Size:
        return Size(self._entry().file_size)

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Raises Damaged, now or as it is read."""
        entry = self._entry()
        if entry.flag_bits & ENCRYPTED:
            raise Damaged(f"{self.name}: encrypted in the archive")
        if entry.compress_type not in COMPRESSIONS:
            raise Damaged(f"{self.name}: compressed by method {entry.compress_type} in the archive, expected deflate")
        try:
            return io.BufferedReader(_Unpacked(self.name, self.archive.zip.open(entry), entry.file_size), BLOCK)
        except BROKEN as error:
            raise _damaged(self.name, error) from None

    def read_bytes(self) -> bytes:
        """Raises Damaged."""
        with self.open("rb") as file:
            return file.read()

    def _entry(self) -> zipfile.ZipInfo:
        if entry := self.archive.files.get(self.inside):
            return entry
        raise FileNotFoundError(2, "No such file or directory", str(self))


AnyPath = Path | Archived
"""A file or folder of a run, on this machine or in an archive: who reads runs uses what both can do."""


class _Unpacked(io.RawIOBase):
    """The bytes of a file as they are asked for: as many as the archive's directory says it has, or Damaged."""

    def __init__(self, name: str, file: IO[bytes], size: int):
        self.name, self.file, self.size = name, file, size

    def readinto(self, buffer) -> int:
        try:
            data = self.file.read(len(buffer))
            if not data and self.file.tell() < self.size:
                raise EOFError(f"it ends before {self.size:,} bytes")
        except BROKEN as error:
            raise _damaged(self.name, error) from None
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self.file.seek(offset, whence)
        except BROKEN as error:
            raise _damaged(self.name, error) from None

    def close(self) -> None:
        self.file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _damaged(name: str, error: Exception) -> Damaged:
    return Damaged(f"{name}: damaged in the archive ({' '.join(str(error).split())[:200]})")


def opened(typed: Path) -> list[AnyPath]:
    """What is typed for runs. Raises ConfigError where an archive doesn't hold it, DataError where it is no archive,
    OSError where it can't be read."""
    for above in (typed, *typed.parents):
        if is_archive(above):
            archive = Archive(above)
            return [Archived(archive, name) for name in archive.named(typed.relative_to(above).as_posix())]
        if above.exists():
            break
    return [typed]


def is_archive(path: Path) -> bool:
    """Whether a file is meant as one: by its name, or by how it begins."""
    if not path.is_file():
        return False
    if path.suffix.lower() == SUFFIX:
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
