"""profiles/: the traces of a run, a folder each, and request.json, by which `mfa-train profile` asks for one.

1. The command makes request.json, where there is none: one request at a time.
2. Rank 0 of the run finds it, writes into it which steps they will be (`first`), or why not (`refused`).
3. Each rank that is named writes into step-N.partial/.
4. Rank 0 puts profile.json beside, renames the folder to step-N and removes request.json.
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mfa_train.config.profile_schema import FIRST, require_ranks, require_window
from mfa_train.config.requirements import STEPS, require_whole
from mfa_train.errors import ConfigError
from mfa_train.tracking.records import read_object

FOLDER = "profiles"
REQUEST = "request.json"
SUMMARY = "profile.json"
PARTIAL = ".partial"
ID = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Request:
    """A trace that is asked for."""

    id: str
    steps: int
    ranks: list[int]
    step: int | None = None
    """The first one, where it was asked for; null: the next."""
    first: int | None = None
    """The first one, as rank 0 says."""
    refused: str | None = None
    """Why there will be none."""


def path_of(run: Path) -> Path:
    return run / FOLDER / REQUEST


def folder_of(run: Path, first: int) -> Path:
    """Where the trace lies whose first step that is."""
    return run / FOLDER / f"step-{first:08}"


def partial_of(run: Path, first: int) -> Path:
    """Where it is written."""
    return folder_of(run, first).with_suffix(PARTIAL)


def ask(run: Path, request: Request) -> None:
    """Leaves `request` for the run. Raises ConfigError where another one is there, OSError where it cannot be
    written."""
    path = path_of(run)
    path.parent.mkdir(exist_ok=True)
    if (before := read(run)) is not None and before.refused is not None:
        path.unlink(missing_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(request)))
    except FileExistsError:
        which = f"from step {before.first:,} on " if before is not None and before.first is not None else ""
        raise ConfigError(
            f"{path}: a profile {which}is asked for already: wait until it is there, or remove this file to take that "
            "back"
        ) from None


def read(run: Path) -> Request | None:
    """The request that is there; None where there is none, or it isn't whole yet. Raises ConfigError for what is no
    request, OSError where it cannot be read."""
    path = path_of(run)
    try:
        content = read_object(path)
        if content is None:
            if path.stat().st_size == 0:
                return None
            raise ConfigError(f"{path}: is no request of mfa-train profile: remove it")
    except FileNotFoundError:
        return None
    return _request(path, content)


def stands(run: Path, request: Request) -> bool:
    """Whether the request that is there is this one."""
    try:
        there = read(run)
    except ConfigError:
        return False
    return there is not None and there.id == request.id


def answer(run: Path, request: Request, first: int | None = None, refused: str | None = None) -> bool:
    """Writes down what becomes of it, and whether it was still there. Raises OSError."""
    path = path_of(run)
    if not stands(run, request):
        return False
    beside = path.with_name(f"{REQUEST}{PARTIAL}")
    beside.write_text(json.dumps(asdict(replace(request, first=first, refused=refused))), encoding="utf-8")
    os.replace(beside, path)
    return True


def remove(run: Path, request: Request) -> None:
    """Removes it, where it is still there. Raises OSError."""
    if stands(run, request):
        path_of(run).unlink(missing_ok=True)


def made(run: Path, id: str) -> tuple[Path, dict] | None:
    """The folder of the trace that was asked for by `id`, with what its profile.json holds; None before it is there."""
    for path in (run / FOLDER).glob(f"step-*/{SUMMARY}"):
        if path.parent.suffix != PARTIAL and (summary := read_object(path)) and summary.get("id") == id:
            return path.parent, summary
    return None


def clear_partial(run: Path) -> None:
    """Removes what an earlier start of the run did not finish."""
    for left in (run / FOLDER).glob(f"step-*{PARTIAL}"):
        shutil.rmtree(left, ignore_errors=True)


def _request(path: Path, content: dict) -> Request:
    try:
        request = Request(**content)
        if not (isinstance(request.id, str) and ID.fullmatch(request.id) and isinstance(request.ranks, list)):
            raise TypeError
        if not all(type(rank) is int for rank in request.ranks):
            raise TypeError
        require_window("steps", request.steps)
        require_ranks("ranks", request.ranks)
        for key in ("step", "first"):
            if (step := getattr(request, key)) is not None:
                require_whole(key, step, FIRST, STEPS)
    except (TypeError, ConfigError):
        raise ConfigError(f"{path}: is no request of mfa-train profile: remove it") from None
    return request
