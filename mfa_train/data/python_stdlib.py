"""The embedded corpus: the sources of this Python's standard library, tests left out.

Real text that every machine with Python has. Two machines with the same Python release read the same documents: files
that an installation generates for itself are left out.
"""

import hashlib
import io
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib-dynload"}
LEFT_OUT_FILES = ("_sysconfigdata", "_sysconfig_vars", "sitecustomize", "usercustomize")
"""Beginnings of the names of files that hold a machine's own paths and habits."""


def version() -> str:
    return platform.python_version()


def documents() -> Iterator[tuple[str, str]]:
    """(path relative to the library, text) of every source, sorted by path."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name in sorted(paths):
        *folders, file = name.split("/")
        if LEFT_OUT_FOLDERS.intersection(folders) or any(folder.startswith("config-") for folder in folders):
            continue
        if file.startswith(LEFT_OUT_FILES):
            continue
        text = _decoded(paths[name].read_bytes())
        if text:
            yield name, text


def held_out(name: str, text: str, fraction: float) -> bool:
    """Whether the file is kept from training: by a hash of its path alone, whatever else is there."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def _decoded(source: bytes) -> str | None:
    """The text by the rules of PEP 263, line ends as newlines; None where it is no text."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = io.TextIOWrapper(io.BytesIO(source), encoding, newline=None).read()
    except (SyntaxError, UnicodeDecodeError):
        return None
    return None if "\0" in text else text
