"""Which files paths, patterns and URLs mean, and what of that is passed over.

A pattern takes files alone, and none whose name, or a folder's below the pattern's fixed part, begins with a dot,
unless the pattern says so (as a shell's). What is named in full is taken, or refused where it is no file.
"""

import math
import os
import stat
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import fsspec
from fsspec.core import OpenFile
from fsspec.implementations.local import LocalFileSystem

from mfa_train.data import reach
from mfa_train.data.reach import reaching
from mfa_train.errors import ConfigError

MAGIC = "*?["


class PassedOver:
    """What patterns matched and no document is read from: how many of each kind, and one to look at."""

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, name)

    def told(self) -> list[str]:
        return [f"{count:,} {kind} passed over, as {self.examples[kind]}" for kind, count in self.counts.items()]


class Found(NamedTuple):
    files: list[OpenFile]
    """Each once, sorted by name."""
    passed_over: PassedOver


def found(key: str, patterns: list[str]) -> Found:
    """The files of `patterns` (paths or URLs, with * and ** as in a shell).

    Raises ConfigError where a pattern finds none or can't be reached, or a name is a folder's or no file's.
    """
    files: dict[str, OpenFile] = {}
    passed_over = PassedOver()
    for pattern in patterns:
        asked = f"{key}={pattern}"
        if not pattern.strip():
            raise ConfigError(f"{asked}: an empty name; expected a path, a pattern or a URL")
        reach.require_place(asked, pattern)
        with reaching(asked, ConfigError):
            is_path = ("://" not in pattern and "::" not in pattern) or os.path.lexists(pattern)
        before = passed_over.counts.total()
        matching = _on_disk(key, pattern, passed_over) if is_path else _at_url(key, pattern, passed_over)
        if not matching:
            if skipped := passed_over.counts.total() - before:
                what = "; ".join(passed_over.told())
                raise ConfigError(
                    f"{asked}: matches no file, but {skipped:,} that are passed over ({what}); "
                    "name them in full, or type PATTERN/**/* for the files of folders"
                )
            raise ConfigError(f"{asked}: no such file, or no such bucket")
        files |= {reach.name(file): file for file in matching}
    return Found([files[file] for file in sorted(files)], passed_over)


def _on_disk(key: str, pattern: str, passed_over: PassedOver) -> list[OpenFile]:
    filesystem, asked = LocalFileSystem(), f"{key}={pattern}"
    if os.path.lexists(os.path.expanduser(pattern)) or not _first_magic(pattern) < len(pattern):
        path = os.path.abspath(os.path.expanduser(pattern))
        with reaching(asked, ConfigError):
            mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise _folder(key, pattern)
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{asked}: {reach.irregular(mode)}; expected a file, which is read more than once")
        return [OpenFile(filesystem, path)]
    with reaching(asked, ConfigError):
        paths = sorted(filesystem.glob(pattern))
    matching = []
    root = len(_fixed_part(filesystem._strip_protocol(pattern)))
    takes_dots, folders_too = _takes_dots(pattern), "**" not in pattern
    for path in paths:
        try:
            mode = os.stat(path).st_mode
        except OSError:  # a link to nowhere, or in a circle
            passed_over.add("links that lead to no file", path)
            continue
        if stat.S_ISDIR(mode):
            if folders_too or os.path.islink(path):
                passed_over.add("links to folders" if os.path.islink(path) else "folders", path)
        elif not takes_dots and "/." in f"/{path[root:]}":
            passed_over.add("files with a dot before their name or folder", path)
        elif not stat.S_ISREG(mode):
            passed_over.add("pipes, sockets and devices", path)
        else:
            matching.append(OpenFile(filesystem, path))
    for path in _links_to_folders(filesystem._strip_protocol(pattern), takes_dots):
        if path not in paths:
            passed_over.add("links to folders", path)
    return matching


def _links_to_folders(pattern: str, takes_dots: bool) -> Iterator[str]:
    """Those that `pattern` would have to go through, where a folder stands behind its first sign of a pattern: they
    aren't followed."""
    root = _fixed_part(pattern)
    depth = math.inf if "**" in pattern else pattern[len(root) :].count("/")
    for folder, folders, _ in os.walk(root) if depth else ():
        level = 1 + len(folder[len(root) :].split("/")) if folder[len(root) :] else 1
        folders[:] = sorted(name for name in folders if takes_dots or not name.startswith("."))
        yield from (path for name in folders if os.path.islink(path := os.path.join(folder, name)))
        if level >= depth:
            folders.clear()


def _at_url(key: str, pattern: str, passed_over: PassedOver) -> list[OpenFile]:
    asked, is_http = f"{key}={pattern}", pattern.startswith(("http://", "https://"))
    is_pattern = _first_magic(pattern) < len(pattern) and not (is_http and "*" not in pattern)  # a ? begins the query
    with reaching(asked, ConfigError):
        return reach.promptly(lambda: _listed(key, pattern, is_pattern, is_http, passed_over))


def _listed(key: str, pattern: str, is_pattern: bool, is_http: bool, passed_over: PassedOver) -> list[OpenFile]:
    if not is_pattern:
        filesystem, path = fsspec.url_to_fs(pattern)
        if is_http:
            filesystem.exists(path, strict=True)  # which tells why not
        if not filesystem.isfile(path):
            if not is_http and filesystem.isdir(path):
                raise _folder(key, pattern)
            return []
        return [OpenFile(filesystem, path)]
    matching = fsspec.open_files(pattern, "rb")
    root = len(_fixed_part(matching.fs._strip_protocol(pattern))) if matching else 0
    kept = []
    for file in matching:
        if not file.fs.isfile(file.path):
            passed_over.add("folders", file.path)
        elif not _takes_dots(pattern) and "/." in f"/{file.path[root:]}":
            passed_over.add("files with a dot before their name or folder", file.path)
        else:
            kept.append(file)
    return kept


def _folder(key: str, pattern: str) -> ConfigError:
    return ConfigError(
        f"{key}={pattern}: a folder; type {key}='[{pattern.rstrip('/')}/**/*]' for all files in it, or name some"
    )


def _takes_dots(pattern: str) -> bool:
    return "/." in pattern[len(_fixed_part(pattern)) - 1 :] if "/" in pattern else pattern.startswith(".")


def _first_magic(pattern: str) -> int:
    return min((place for sign in MAGIC if (place := pattern.find(sign)) >= 0), default=len(pattern))


def _fixed_part(pattern: str) -> str:
    """Up to and with the last / before the first sign of a pattern."""
    return pattern[: pattern.rfind("/", 0, _first_magic(pattern)) + 1]
