"""A run that goes on from object storage (checkpoint.upload): what its folder here lacks is fetched before it starts,
and from then on it is started as any other.

    1. Each node writes a small file there, so that what can't work ends the start and not the first upload.
    2. Where the newest checkpoint there is newer than the newest here, the run's own files come first (config.yaml is
       held against the config before anything is left here), then that checkpoint: every rank fetches its share and
       holds it against the manifest's checksums. One that is damaged there is told of, and the one before it taken.
    3. It gets its name when all of it is here. Of a finished run the final weights come instead.
    4. A checkpoint that turns out to be damaged here is fetched, where the same one is there (`fetch_again`).
"""

import dataclasses
import errno
import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mfa_train import config as configs
from mfa_train.checkpoints.folders import flush, folder_of, newest_first, plausible, step_of
from mfa_train.checkpoints.manifest import MANIFEST, Damaged, manifest_of
from mfa_train.checkpoints.object_storage import CHECKPOINTS, StoredRun, is_whole, patiently, why
from mfa_train.checkpoints.tokenizer import FINAL
from mfa_train.checkpoints.weights import SUM, final_checkpoint
from mfa_train.config import Config
from mfa_train.data.shards.store import sha256_of
from mfa_train.errors import ConfigError, DataError
from mfa_train.tracking.metrics_file import FILE as METRICS
from mfa_train.tracking.records import read_object
from mfa_train.tracking.starts import FILE as STARTS
from mfa_train.training.processes.ranks import Ranks, local_rank
from mfa_train.training.resuming.changes import changes
from mfa_train.training.run_folder.folder import SUMMARY, RunFolder
from mfa_train.training.saving.uploads import FOLDERS, RUN_FILES

ATTEMPTS = 6
"""To fetch a file."""


def open_storage(config: Config, ranks: Ranks) -> StoredRun | None:
    """The run in object storage, None without checkpoint.upload, after each node has written there. Raises ConfigError
    on every rank where one can't, or where resume=never finds a run there; DataError where it can't be reached."""
    if config.checkpoint.upload is None:
        return None
    stored = stored_run(config)

    def require_open() -> None:
        if local_rank() != 0:
            return
        try:
            stored.require_writable(f"probe-{ranks.rank}")
            if ranks.is_rank_zero and config.resume == "never":
                require_nothing_there(stored)
        except (OSError, ValueError) as error:
            raise DataError(_unreachable(stored, error)) from error
        except (ConfigError, DataError) as error:
            raise type(error)(f"{f'{ranks.host_of(ranks.rank)}: ' if ranks.rank else ''}{error}") from error

    ranks.on_each(require_open)
    return stored


def stored_run(config: Config) -> StoredRun:
    """Of a config with checkpoint.upload."""
    return StoredRun(str(config.checkpoint.upload), config.name)


def require_nothing_there(stored: StoredRun) -> None:
    """Raises ConfigError where the run's place in object storage is taken, which resume=never does not make room in."""
    if any(is_whole(files) for files in _reached(stored, stored.checkpoints).values()):
        raise ConfigError(
            f"resume=never: {stored.url} holds checkpoints of an older run of this name, which nothing here moves or "
            "removes: type name=… for a run beside it, or remove them there"
        )


def fetch_what_is_newer(stored: StoredRun, folder: RunFolder, ranks: Ranks) -> dict | None:
    """Makes the run's folder here what it is there, where that is further; every rank takes part. Gives the summary of
    a run that is finished, as `RunFolder.open`.

    Raises ConfigError where another run is there, DataError where nothing whole can be fetched.
    """
    steps = ranks.on_rank_zero(lambda: _newer_steps(stored, folder.path))
    if not steps:
        return None
    finished = ranks.on_rank_zero(lambda: _take_run_files(stored, folder))
    if finished:
        for final in (final_checkpoint(folder.path, averaged) for averaged in (False, True)):
            sums = ranks.on_rank_zero(functools.partial(_final_sums, stored, final.name))
            if sums and not final.is_dir():
                _fetch_folder(stored, final, sums, ranks)
        return finished
    checkpoints = folder.path / CHECKPOINTS
    for step in steps:
        checkpoint = folder_of(checkpoints, step)
        found = ranks.on_rank_zero(functools.partial(_manifest, stored, checkpoint))
        if isinstance(found, str):
            ranks.say(f"warning: {stored.url}: {checkpoint.name} is damaged there: {found}")
            continue
        sums = {entry["name"]: entry["sha256"] for entry in found}
        size = sum(entry["bytes"] for entry in found)
        ranks.say(f"fetches {checkpoint.name} ({size / 2**20:,.1f} MiB) from {stored.url}")
        if damage := _fetch_folder(stored, checkpoint, sums, ranks):
            ranks.say(f"warning: {stored.url}: {checkpoint.name} is damaged there: {damage}")
            continue
        return None
    raise DataError(
        f"{stored.url}: no checkpoint that is newer than those here is whole there; without checkpoint.upload the run "
        "goes on from what is here"
    )


def fetch_again(stored: StoredRun, run: Path, checkpoint: Path, damage: str, ranks: Ranks) -> bool:
    """Fetches a checkpoint of the run's own, of which files have the `damage` here and the manifest has none, where the
    one there has the same manifest; every rank takes part. Gives whether it is whole now. Raises DataError, on every
    rank."""
    name = f"{CHECKPOINTS}/{checkpoint.name}"

    def entries() -> list[dict] | str:
        if checkpoint.parent != run / CHECKPOINTS or not is_whole(_reached(stored, lambda: stored.sizes(name))):
            return "is not there"
        if _reached(stored, lambda: stored.read(f"{name}/{MANIFEST}")) != (checkpoint / MANIFEST).read_bytes():
            return "is another one there"
        return _manifest(stored, checkpoint)

    found = ranks.on_rank_zero(entries)
    if isinstance(found, str):
        return False
    ranks.say(f"warning: {checkpoint} is damaged: {damage}; fetches it from {stored.url}")
    spoilt = _fetch_folder(stored, checkpoint, {entry["name"]: entry["sha256"] for entry in found}, ranks)
    if spoilt:
        ranks.say(f"warning: {stored.url}: {checkpoint.name} is damaged there: {spoilt}")
    return spoilt is None


def _newer_steps(stored: StoredRun, run: Path) -> list[int]:
    """Of the whole checkpoints there, the newest first, that are newer than the newest here."""
    here = next((step_of(path) for path in newest_first(run / CHECKPOINTS) if plausible(path)), -1)
    there = _reached(stored, stored.checkpoints)
    return sorted((step for step, files in there.items() if is_whole(files) and step > here), reverse=True)


def _take_run_files(stored: StoredRun, folder: RunFolder) -> dict | None:
    """Brings the run's own files; gives the summary where the run is finished. Raises ConfigError where it is another
    run's."""
    there = _reached(stored, stored.sizes)
    config_is_here = (folder.path / "config.yaml").is_file()
    with tempfile.TemporaryDirectory() as temporary:
        beside = Path(temporary)

        def get(name: str) -> Path:
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            _reached(stored, lambda: stored.get(name, beside / name))
            return beside / name

        if "config.yaml" in there:
            get("config.yaml")
            refused, _ = changes(dataclasses.asdict(configs.of_run(beside)), folder.config)
            if refused:
                raise ConfigError(
                    f"checkpoint.upload: {stored.url} holds another run ({'; '.join(refused[:3])}"
                    f"{', …' if len(refused) > 3 else ''}); type name=… for a run beside it"
                )
        wanted = [name for name in there if name in RUN_FILES or name.rpartition("/")[0] in FOLDERS]
        wanted += [SUMMARY] if SUMMARY in there and f"{CHECKPOINTS}/{FINAL}/{SUM}" in there else []
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.lock.take()
            for name in wanted:  # the records there are of a run that got further; other files stay where they are
                if name == METRICS or not (folder.path / name).exists():
                    _place(get(name), folder.path / name)
                elif name == STARTS:
                    own = (folder.path / name).read_bytes().splitlines(keepends=True)
                    before = get(name).read_bytes().splitlines(keepends=True)
                    (beside / name).write_bytes(b"".join([*before, *(line for line in own if line not in before)]))
                    _place(beside / name, folder.path / name)
        except OSError as error:
            raise ConfigError(
                f"runs_dir={folder.config.runs_dir}: {folder.path} cannot be written ({error.strerror}); type "
                "runs_dir=FOLDER with room"
            ) from error
    return None if config_is_here else folder.open()


def _place(source: Path, target: Path) -> None:
    """A file appears whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    shutil.copyfile(source, partial)
    flush(partial)
    partial.replace(target)


def _manifest(stored: StoredRun, checkpoint: Path) -> list[dict] | str:
    """Leaves the checkpoint's manifest in its partial folder; gives the entries of its files, or what is wrong."""
    partial = _partial(checkpoint)
    partial.mkdir(parents=True, exist_ok=True)
    _reached(stored, lambda: stored.get(f"{CHECKPOINTS}/{checkpoint.name}/{MANIFEST}", partial / MANIFEST))
    try:
        content = manifest_of(partial)
        if content["step"] != step_of(checkpoint):
            raise Damaged(f"{MANIFEST} is of step {content['step']}")
        return content["files"]
    except Damaged as error:
        return str(error)


def _final_sums(stored: StoredRun, folder: str) -> dict[str, str | None]:
    """The files of the final weights there, with their checksums where they have one; none where they are not whole."""
    within = f"{CHECKPOINTS}/{folder}"
    names = [name.removeprefix(f"{within}/") for name in _reached(stored, lambda: stored.sizes(within))]
    names = [name for name in names if "/" not in name]  # the weights and what lies with them, in no other folder
    if SUM not in names:
        return {}
    with tempfile.TemporaryDirectory() as temporary:
        _reached(stored, lambda: stored.get(f"{within}/{SUM}", Path(temporary) / SUM))
        sums = read_object(Path(temporary) / SUM) or {}
    return {name: sums.get(name) for name in names}


def _fetch_folder(stored: StoredRun, folder: Path, sums: Mapping[str, str | None], ranks: Ranks) -> str | None:
    """Fetches the files of `sums` into the folder, each rank its share; it gets its name when all are here. Gives what
    is damaged there. Raises DataError, on every rank."""
    beside, mine = _partial(folder), list(sums.items())[ranks.rank :: ranks.world_size]
    ranks.on_rank_zero(lambda: beside.mkdir(parents=True, exist_ok=True))

    def fetch() -> str | None:
        try:
            for name, sha256 in mine:
                if damage := _fetch(stored, f"{CHECKPOINTS}/{folder.name}/{name}", beside / name, sha256):
                    return damage
        except OSError as error:  # of this machine's disk
            raise DataError(_unreachable(stored, error)) from error
        return None

    if told := next(filter(None, ranks.on_each(fetch)), None):
        return told

    def publish() -> None:
        flush(beside)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one, or it would not be fetched
        beside.rename(folder)
        flush(folder.parent)

    ranks.on_rank_zero(publish)
    return None


def _fetch(stored: StoredRun, name: str, path: Path, sha256: str | None) -> str | None:
    """One file, unless it is here from a start that was killed; gives what is damaged there. Raises DataError."""
    if sha256 and path.is_file() and sha256_of(path) == sha256:
        return None
    for _ in range(2):  # what was spoilt on the way is whole when it comes again
        try:
            found = _reached(stored, lambda: stored.get(name, path))
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError) and path.parent.is_dir():
                return f"{path.name} is missing"
            raise
        if sha256 in (None, found):
            flush(path)
            return None
    return f"{path.name} differs from its checksum"


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial-fetched")


def _reached(stored: StoredRun, act):
    """What `act` gives. Raises DataError where it can't be had from there in all attempts."""
    try:
        return patiently(act, ATTEMPTS)
    except (OSError, ValueError) as error:
        raise DataError(_unreachable(stored, error)) from error


def _unreachable(stored: StoredRun, error: Exception) -> str:
    local = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "what it holds has no room here" if local else "it cannot be reached"
    return f"checkpoint.upload: {stored.url}: {what} ({why(error)}); the same command tries again"
