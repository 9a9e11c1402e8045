"""The embedded corpus: the sources of this Python's standard library, tests left out.

Real text that every machine with Python has. Two machines with the same Python release read the same documents: files
that an installation generates for itself are left out.
"""

import io
import os
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from mfa_train.data.preparing.sources.document import Document, checked, falls_below
from mfa_train.data.preparing.sources.tally import Tally

LEFT_OUT_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib-dynload"}
LEFT_OUT_FILES = ("_sysconfigdata", "_sysconfig_vars", "sitecustomize", "usercustomize")
"""Beginnings of the names of files that hold a machine's own paths and habits."""


def version() -> str:
    return platform.python_version()


def size() -> int:
    return sum(path.stat().st_size for path in _paths().values())


def documents(tally: Tally | None = None) -> Iterator[Document]:
    """Every source that is text, its place the path relative to the library, sorted by it."""
    tally = tally or Tally()
    position = 0
    for name, path in _paths().items():
        source = path.read_bytes()
        position += len(source)
        text = _decoded(source)
        tally.files["Python" if text is not None else "no text (left out)"] += 1
        if text is not None:
            yield from checked(name, text, position, tally)


def held_out(document: Document, fraction: float) -> bool:
    """By the file's path: the next release keeps the same files from training."""
    return falls_below(document.place.encode(), fraction)


def _paths() -> dict[str, Path]:
    root, paths = Path(sysconfig.get_path("stdlib")), {}
    for folder, folders, files in os.walk(root):
        # Not looked into at all: in site-packages there can be a hundred times as many.
        folders[:] = [name for name in folders if name not in LEFT_OUT_FOLDERS and not name.startswith("config-")]
        for path in (Path(folder, name) for name in files if name.endswith(".py")):
            if not path.name.startswith(LEFT_OUT_FILES):
                paths[path.relative_to(root).as_posix()] = path
    return dict(sorted(paths.items()))


def _decoded(source: bytes) -> str | None:
    """The text by the rules of PEP 263, line ends as newlines; None where it is no text."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = io.TextIOWrapper(io.BytesIO(source), encoding, newline=None).read()
    except (SyntaxError, UnicodeDecodeError):
        return None
    return None if "\0" in text else text
