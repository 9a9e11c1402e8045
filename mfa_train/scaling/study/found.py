"""Which runs are meant by what was typed: run folders, folders of run folders, archives of either, and tables."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeGuard

from mfa_train.archive import SUFFIX, AnyPath, opened
from mfa_train.errors import ConfigError
from mfa_train.scaling.study.plain_files import shown
from mfa_train.scaling.study.read_run import is_run

TYPE = "type run folders, a folder or an archive of them, or a CSV"
MOVED_ASIDE = re.compile(r"~\d+$")
"""How the name of a run ends whose place a later one took."""


def found(paths: Iterable[Path], notices: list[str]) -> list[AnyPath]:
    """Run folders, each once, and tables of points, in the order of `paths`; what is to be said of them is added to
    `notices`. Raises ConfigError for a path that is none of these, DataError for an archive that is none."""
    runs: list[AnyPath] = []
    seen: set[Path] = set()
    for typed in paths:
        try:
            for path in opened(typed):
                if is_table(path):
                    runs.append(path)
                    continue
                for folder in _run_folders(path, notices):
                    if folder is not path and MOVED_ASIDE.search(folder.name):
                        notices.append(
                            f"left out: {shown(folder.name)}: moved aside by a later run; name it itself to compare it"
                        )
                    elif (where := folder.resolve()) not in seen:
                        seen.add(where)
                        runs.append(folder)
        except OSError as error:
            raise ConfigError(f"{shown(typed, 300)}: cannot be read ({error.strerror}); {TYPE}") from None
    return runs


def is_table(path: AnyPath) -> TypeGuard[Path]:
    """Whether it is a file, which can only be a CSV of points; in an archive there are none."""
    return isinstance(path, Path) and path.is_file()


def _run_folders(path: AnyPath, notices: list[str]) -> list[AnyPath]:
    """The run folders that `path` means. Raises OSError where it can't be looked into."""
    if not path.is_dir():
        raise ConfigError(f"{shown(path, 300)}: no such run; {TYPE}, as runs/* or points.csv")
    inside: list[AnyPath] = [folder for folder in path.iterdir() if folder.is_dir()]
    inside.sort(key=lambda folder: folder.name)
    folders = [path] if is_run(path) else list(filter(is_run, inside))
    below = []
    for folder in inside:
        try:
            if not folder.name.startswith(".") and not is_run(folder) and _holds_runs(folder):
                below.append(folder)
        except OSError as error:
            notices.append(f"{shown(folder, 300)}: cannot be looked into ({error.strerror})")
    if below:
        notices.append(
            f"{shown(path, 300)}: folders below it hold runs as well: type "
            f"{' '.join(shown(folder, 300) for folder in below[:3])}"
        )
    elif not folders and not MOVED_ASIDE.search(path.name):
        archive = next((file for file in path.iterdir() if file.name.endswith(SUFFIX)), None)
        how = f"; an archive is read where it is named, as {shown(archive, 300)}" if isinstance(archive, Path) else ""
        notices.append(f"{shown(path, 300)}: holds no run (no config.yaml){how}")
    return folders


def _holds_runs(folder: AnyPath) -> bool:
    """Whether runs are right below it."""
    return any(is_run(inside) for inside in folder.iterdir() if inside.is_dir())
