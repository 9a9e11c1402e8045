"""A study in one file: the small files of runs in a zip (`mfa-train pack`), read where they stand as a folder is.

Nothing of an archive is unpacked, and no name in it is a path of this machine: a file is found among the archive's own
names and read into memory. So what a stranger put into one can reach nothing outside.

1. `opened` gives what was typed: folders and files of this machine as they are, and of study.zip or
   study.zip/NAME what lies in it. What reads runs takes either (`AnyPath`).
2. An archive that is none of ours, or would cost more than runs do, is refused as a whole, in one line: `Archive`.
3. A file in it that cannot be read costs its run alone: `Damaged`.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal, NamedTuple

from mfa_train.errors import ConfigError, DataError, did_you_mean

SUFFIX = ".zip"
MOST_FILES = 2**16 - 2
"""What a zip's directory can count without the extension for larger ones, which is not read."""
LARGEST_DIRECTORY = 2**24
"""Bytes: twice what so many files of our names take."""
MOST_DEPTH, LONGEST_NAME = 16, 1000
UNPACKED_BYTES, UNPACKED_SHARE = 2**25, 50
"""All files together may have as many bytes, or as many times the archive's: records shrink to a third or a tenth."""
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those that can be unpacked a bounded piece at a time."""
ENCRYPTED = 1
BLOCK = 2**18
END, DIRECTORY_ENTRY, LARGER_END = b"PK\x05\x06", b"PK\x01\x02", b"PK\x06\x07"
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What zipfile makes of an archive that is damaged or forged."""


class Damaged(ValueError):
    """A file in an archive that cannot be read, and why."""


class Size(NamedTuple):
    """What `Path.stat` tells of a file, as far as an archive knows it."""

    st_size: int


class Archive:
    """The names in a zip and the files behind them. Raises DataError where it is no study, OSError where it can't be
    read."""

    def __init__(self, path: Path):
        self.path = path
        try:
            _require_bounded_directory(path)
            self.zip = zipfile.ZipFile(path)
        except BROKEN as error:
            why = " ".join(str(error).split())[:200]
            raise DataError(
                f"{path}: no archive of runs ({why}); make one with mfa-train pack RUNS --out study.zip"
            ) from None
        self.files: dict[str, zipfile.ZipInfo] = {}
        self.folders: dict[str, set[str]] = {"": set()}
        """What each holds, by name; the archive itself is ''."""
        for entry in self.zip.infolist():
            if wrong := self._add(entry):
                raise DataError(f"{path}: no archive of runs: '{ascii(entry.filename)[1:-1][:200]}' in it {wrong}")
        unpacked, most = sum(entry.file_size for entry in self.files.values()), UNPACKED_SHARE * path.stat().st_size
        if unpacked > max(UNPACKED_BYTES, most):
            raise DataError(
                f"{path}: its files would have {unpacked:,} bytes, expected at most {UNPACKED_SHARE} times its own"
            )

    def _add(self, entry: zipfile.ZipInfo) -> str | None:
        """Why it cannot be one of a study's."""
        name = entry.filename.removesuffix("/")
        if why := why_no_name(entry.orig_filename.removesuffix("/")):
            return why
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            return "is a link or a device"
        *above, last = name.split("/")
        for depth in range(len(above)):
            self._add_folder(above[:depth], above[depth])
        if entry.is_dir():
            self._add_folder(above, last)
        elif name in self.files:
            return "stands there twice"
        else:
            self.files[name] = entry
            self.folders["/".join(above)].add(last)
        both = ["/".join(above[:depth]) for depth in range(1, len(above) + 1)] + [name] * entry.is_dir()
        if any(folder in self.files for folder in both) or (name in self.files and name in self.folders):
            return "is a file and a folder"
        return None

    def _add_folder(self, above: list[str], name: str) -> None:
        self.folders["/".join(above)].add(name)
        self.folders.setdefault("/".join([*above, name]), set())

    def named(self, inside: str) -> "list[Archived]":
        """The file or folder of that name, or the folders that it means by a shell's wildcards, sorted. Raises
        ConfigError where there is none."""
        inside = "" if inside == "." else inside
        if inside in self.files or inside in self.folders:
            return [Archived(self, inside)]
        found = [""]
        for pattern in inside.split("/"):
            found = [
                f"{folder}/{name}".removeprefix("/")
                for folder in found
                for name in sorted(self.folders.get(folder, ()))
                if fnmatchcase(name, pattern)
            ]
        if folders := [name for name in found if name in self.folders]:
            return [Archived(self, name) for name in folders]
        raise ConfigError(
            f"{self.path}/{inside}: the archive holds no such run.{did_you_mean(inside, self.folders.keys() - {''})}"
        )


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
            return [*Archive(above).named(typed.relative_to(above).as_posix())]
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


def why_no_name(name: str) -> str | None:
    """Why a run or a file of that name, with / between folders, cannot be in an archive."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        return "is no name of a file below it"
    if len(parts) > MOST_DEPTH or len(name) > LONGEST_NAME:
        return f"lies more than {MOST_DEPTH} folders deep, or has a name of more than {LONGEST_NAME:,} characters"
    return None


def _require_bounded_directory(path: Path) -> None:
    """Before it is read as a whole. Raises ValueError for a zip whose directory is none, or larger than ours are: the
    last 22 bytes tell where it begins, and there is no comment behind them."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 42))
        tail = file.read()
        if len(tail) < 22 or tail[-22:-18] != END or tail[-2:] != b"\0\0":
            raise ValueError("it is cut off, or no zip: its last 22 bytes are not the end of a zip's directory")
        if tail[:4] == LARGER_END:
            raise ValueError(f"it is a zip of more than {MOST_FILES:,} files or 4 GiB")
        length, start = struct.unpack("<LL", tail[-10:-2])
        if length > LARGEST_DIRECTORY or start + length > size:
            raise ValueError(f"its directory has {length:,} bytes, expected at most {LARGEST_DIRECTORY:,}")
        file.seek(max(0, size - 22 - length))
        if (count := file.read(length).count(DIRECTORY_ENTRY)) > MOST_FILES:
            raise ValueError(f"it holds {count:,} files, expected at most {MOST_FILES:,}")
