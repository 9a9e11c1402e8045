"""`mfa-train pack`: the small files of runs as one archive, which `compare` and `status` read as they read the folders.

The same runs make the same bytes: runs by name, files in one order, no dates. What an archive lacks are weights, logs,
W&B's folder and the job that was launched. It is written beside its place, and takes it when it was read back.
"""

import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from mfa_train.archive import MOST_FILES, SUFFIX, AnyPath, Archive, Damaged, why_no_name
from mfa_train.errors import ConfigError, DataError
from mfa_train.evaluation.scores import FOLDER
from mfa_train.scaling.study import curve, plain_files, splices
from mfa_train.scaling.study.found import found, is_table
from mfa_train.scaling.study.plain_files import shown

FILES = {
    "config.yaml": plain_files.LARGEST_BYTES,
    "plan.json": plain_files.LARGEST_BYTES,
    "summary.json": plain_files.LARGEST_BYTES,
    "metrics.jsonl": curve.LARGEST_BYTES,
    splices.STARTS: splices.LARGEST_BYTES,
    splices.SET_ASIDE: splices.LARGEST_BYTES,
}
"""What of a run is packed, beside its scores on tasks, and the most bytes that are read of it."""
BLOCK = 2**20
NO_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can tell."""
LISTED = 3


class Packed(NamedTuple):
    """What an archive holds."""

    runs: int
    files: int
    unpacked: int
    """Bytes of the files."""
    size: int
    """Bytes of the archive."""
    replaced: int
    """Runs of the archive that stood there before."""


def pack(paths: Iterable[Path], out: Path, say: Callable[[str], None]) -> Packed:
    """Writes the runs that `paths` mean, as `compare` understands them, into the archive `out`; what is left out, and
    what is not finished, is said. Raises ConfigError for what can be no archive or its place, DataError where there is
    no run or one cannot be read."""
    notices: list[str] = []
    runs = _by_name(found(paths, notices))
    replaced = _runs_in_place_of(out, runs.values())
    for name, run in list(runs.items()):
        if why := _why_not(name, run):
            notices.append(f"left out: {shown(name)}: {why}")
            del runs[name]
    scores = {name: _scores(name, run, notices) for name, run in runs.items()}
    for notice in notices:
        say(f"notice: {notice}")
    if not runs:
        raise DataError("no run to pack: type run folders or a folder of them, as runs")
    files = {
        f"{name}/{file}": path
        for name, run in sorted(runs.items())
        for file, path in ({file: run / file for file in FILES} | scores[name]).items()
        if path.is_file()
    }
    if len(files) > MOST_FILES:
        raise ConfigError(f"--out {out}: {len(files):,} files, expected at most {MOST_FILES:,}; pack several archives")
    if unfinished := [shown(name) for name in runs if f"{name}/summary.json" not in files]:
        few = f"{', '.join(unfinished[:LISTED])}{', …' if len(unfinished) > LISTED else ''}"
        say(f"notice: {len(unfinished)} packed as they stand, running or unfinished (no summary.json): {few}")
    try:
        unpacked, size = _write(files, out)
    except OSError as error:
        of = next((file for file in files.values() if str(file) == error.filename), f"--out {out}")
        raise ConfigError(f"{shown(of, 300)}: {error.strerror}; nothing was packed") from None
    except zipfile.LargeZipFile:
        raise ConfigError(f"--out {shown(out, 300)}: would be larger than 2 GiB; pack several archives") from None
    except Damaged as error:
        raise DataError(f"{error}; nothing was packed") from None
    return Packed(len(runs), len(files), unpacked, size, replaced)


def _by_name(folders: list[AnyPath]) -> dict[str, AnyPath]:
    """The runs by the names of their folders. Raises ConfigError for a table, and for two runs of one name."""
    runs: dict[str, AnyPath] = {}
    for run in folders:
        if is_table(run):
            raise ConfigError(f"{shown(run, 300)}: a file, which compare reads as it is; type run folders, as runs/*")
        name = run.name or run.resolve().name
        if name in runs:
            both = f"{shown(runs[name], 300)} and {shown(run, 300)}"
            raise ConfigError(f"{both} are two runs of one name: pack them into two archives, or rename one")
        runs[name] = run
    return runs


def _runs_in_place_of(out: Path, runs: Iterable[AnyPath]) -> int:
    """How many runs the archive at `out` holds, which the new one takes the place of; 0 where nothing is there. Raises
    ConfigError where something else is, or `out` lies in a run."""
    told = f"--out {shown(out, 300)}"
    if out.suffix != SUFFIX:
        raise ConfigError(f"{told}: expected a file that ends in {SUFFIX}, as study.zip")
    try:
        for run in runs:
            if isinstance(run, Path) and run.resolve() in out.resolve().parents:
                raise ConfigError(f"{told}: lies in the run {shown(run, 300)}; type a place outside the runs")
        if not out.exists() and not out.is_symlink():
            return 0
        if not out.is_symlink() and out.is_file():
            runs_of = [_run_of(name) for name in Archive(out).files]
            if runs_of and all(runs_of):
                return len(set(runs_of))
    except DataError:
        pass
    except OSError as error:
        raise ConfigError(f"{told}: cannot be looked into ({error.strerror})") from None
    raise ConfigError(f"{told}: is there and no archive that pack made; type another name, or remove it")


def _run_of(name: str) -> str:
    """The run whose file one of that name in an archive is; empty where it is none of a run's."""
    folder, _, file = name.rpartition("/")
    if file in FILES:
        return folder
    return folder.removesuffix(f"/{FOLDER}") if folder.endswith(f"/{FOLDER}") and file.endswith(".json") else ""


def _scores(name: str, run: AnyPath, notices: list[str]) -> dict[str, AnyPath]:
    """The files of its scores on tasks; those that compare would not read are left out, and said."""
    folder = run / FOLDER
    if not folder.is_dir():
        return {}
    found: dict[str, AnyPath] = {}
    files: list[AnyPath] = [path for path in folder.iterdir() if path.name.endswith(".json") and path.is_file()]
    for path in sorted(files, key=lambda path: path.name):
        inside = f"{FOLDER}/{path.name}"
        if why := _why_no_score(path, folder, f"{name}/{inside}"):
            notices.append(f"left out: {shown(name)}/{shown(inside)}: {why}")
        else:
            found[inside] = path
    return found


def _why_no_score(path: AnyPath, folder: AnyPath, name: str) -> str | None:
    if any(isinstance(one, Path) and one.is_symlink() for one in (path, folder)):
        return "is a link"
    if (size := path.stat().st_size) > plain_files.LARGEST_BYTES:
        return f"has {size:,} bytes, expected at most {plain_files.LARGEST_BYTES:,}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return (why := why_no_name(name)) and f"its name {why}"


def _why_not(name: str, run: AnyPath) -> str | None:
    """Why a run cannot be packed."""
    if why := why_no_name(name):
        return f"its name {why}"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    for file, most in FILES.items():
        path = run / file
        if isinstance(path, Path) and path.is_symlink():
            return f"{file} is a link"
        if path.is_file() and (size := path.stat().st_size) > most:
            return f"{file} has {size:,} bytes, expected at most {most:,}"
    return None


def _write(files: dict[str, AnyPath], out: Path) -> tuple[int, int]:
    """The bytes of all files, and of the archive that holds them."""
    unpacked = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=out.parent) as folder:
        beside = Path(folder) / out.name
        with beside.open("xb") as file:
            with zipfile.ZipFile(file, "w", allowZip64=False) as archive:
                for name, path in files.items():
                    entry = zipfile.ZipInfo(name, NO_DATE)
                    entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
                    entry.external_attr = (stat.S_IFREG | 0o644) << 16
                    left = path.stat().st_size  # what a running one writes meanwhile is left out
                    unpacked += left
                    with path.open("rb") as source, archive.open(entry, "w") as target:
                        while left and (block := source.read(min(BLOCK, left))):
                            left -= target.write(block)
            file.flush()
            os.fsync(file.fileno())
        size = beside.stat().st_size
        Archive(beside)
        beside.replace(out)
    return unpacked, size
