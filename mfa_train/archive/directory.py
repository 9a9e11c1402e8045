"""The names in an archive, and the bounds within which it is read at all: a zip that is none of ours, or would cost
more than runs do, is refused as a whole, in one line."""

import io
import stat
import struct
import zipfile
import zlib
from fnmatch import fnmatchcase
from pathlib import Path

from mfa_train.errors import ConfigError, DataError, did_you_mean

MOST_FILES = 2**16 - 2
"""What a zip's directory can count without the extension for larger ones, which is not read."""
LARGEST_DIRECTORY = 2**24
"""Bytes: twice what so many files of our names take."""
MOST_DEPTH, LONGEST_NAME = 16, 1000
UNPACKED_BYTES, UNPACKED_SHARE = 2**25, 50
"""All files together may have as many bytes, or as many times the archive's: records shrink to a third or a tenth."""
END, DIRECTORY_ENTRY, LARGER_END = b"PK\x05\x06", b"PK\x01\x02", b"PK\x06\x07"
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)
"""What zipfile makes of an archive that is damaged or forged."""


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

    def named(self, inside: str) -> list[str]:
        """The file or folder of that name, or the folders that it means by a shell's wildcards, sorted. Raises
        ConfigError where there is none."""
        inside = "" if inside == "." else inside
        if inside in self.files or inside in self.folders:
            return [inside]
        found = [""]
        for pattern in inside.split("/"):
            found = [
                f"{folder}/{name}".removeprefix("/")
                for folder in found
                for name in sorted(self.folders.get(folder, ()))
                if fnmatchcase(name, pattern)
            ]
        if folders := [name for name in found if name in self.folders]:
            return folders
        raise ConfigError(
            f"{self.path}/{inside}: the archive holds no such run.{did_you_mean(inside, self.folders.keys() - {''})}"
        )


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
