"""The door to a prepared corpus: found in data.path, or made there.

1. A folder that holds a corpus of the same settings is taken as it is; of other settings it is never touched.
2. It is written beside its place, as .NAME.partial, and renamed when whole: what has the name is a corpus.
3. From texts the tokenizer is trained or copied, and everything encoded (encode.py). Shards that other tools made
   are taken where they lie (megatron.py).
4. manifest.json vouches for every file.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mfa_train.config import DataConfig
from mfa_train.data import reach
from mfa_train.data.corpus import Corpus
from mfa_train.data.manifest import read_manifest
from mfa_train.data.preparing.encode import Encoding
from mfa_train.data.preparing.megatron import Registration
from mfa_train.data.preparing.sources import open_source
from mfa_train.data.shards.cache import ShardCache
from mfa_train.data.tokenizer import MIN_VOCAB_SIZE
from mfa_train.errors import ConfigError, DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def prepare(data: DataConfig, say: Callable[[str], None] = print, check: bool = False) -> Corpus:
    """The corpus in data.path, made where it isn't there yet; of two at once the second waits for the first. With
    `check` one that is there is read whole and held against its checksums.

    Raises ConfigError for a source or a tokenizer that can't be found or reached, a vocabulary out of range, a split
    without documents, or a folder that holds a corpus made with other settings or anything else; DataError for a
    document or shard that cannot be read, and for a full disk. What is there stays as it was.
    """
    path = _place(data.path)
    tokenizer = None if data.tokenizer is None else reach.content("data.tokenizer", data.tokenizer)
    if tokenizer is None and data.source != "megatron" and data.vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(f"data.vocab_size={data.vocab_size}: expected at least {MIN_VOCAB_SIZE}")
    work = (
        Registration(path, data, tokenizer, say)
        if data.source == "megatron"
        else Encoding(path, open_source(data), data, tokenizer, say)
    )
    if not _is_prepared(path, data, work.settings):
        with _alone(path):
            if not _is_prepared(path, data, work.settings):  # another process was first
                _run(work, path)
                check = True
    corpus = Corpus(path, ShardCache(data.cache_dir, data.cache_bytes), check)
    if corpus.tokenizer.separator.in_texts:
        say(f"warning: {path}: {corpus.tokenizer.separator.warning}")
    return corpus


def _place(path: str) -> Path:
    """Raises ConfigError for what can be no folder's path."""
    place = Path(path)
    try:
        if not place.name or place.name == "..":
            raise ValueError("it ends in no name")
        for beside in (place, place.with_name(f".{place.name}.verified.json")):  # the longest name that is written
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                os.lstat(beside)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data.path={path}: can be no folder ({getattr(error, 'strerror', None) or error}); type data.name=… with "
            "a "
            "short name, or data.path=FOLDER"
        ) from error
    return place


def _run(work: Encoding | Registration, path: Path) -> None:
    try:
        work.run()
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(
            f"data.path={path}: {error.strerror} while preparing; free space and type the same command "
            f"again: it goes on behind the finished shards in {work.work}"
        ) from error


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock beside `path`, which goes with the process that holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f".{path.name}.lock"), "w")
    except OSError as error:
        raise ConfigError(
            f"data.path={path}: {path.parent} cannot be written ({error.strerror}); type data_dir=FOLDER "
            "with one that can"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_prepared(path: Path, data: DataConfig, settings: dict) -> bool:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    try:
        manifest = read_manifest(path)
    except (DataError, OSError) as error:
        raise ConfigError(f"data.path={path}: holds something else than a prepared corpus ({error})") from error
    mend = "type data.path=… for another place"
    for key, value in settings.items():
        there = manifest.get(key)
        if there == value:
            continue
        if key == "source_version":
            raise ConfigError(
                f"data.path={path}: holds a corpus of other documents of source {data.source} ({there}, "
                f"these are {value}); {mend}, or remove it to prepare anew"
            )
        if key == "tokenizer":
            raise ConfigError(
                f"data.tokenizer={'null' if data.tokenizer is None else data.tokenizer}: {path} holds a "
                f"corpus of another tokenizer ({_told(there)}, this is {_told(value)}); {mend}"
            )
        raise ConfigError(f"data.{key}={value}: {path} holds a corpus with {key}={there}; {mend}")
    return True


def _told(tokenizer: str | None) -> str:
    return "one trained on its texts" if tokenizer is None else f"sha256 {tokenizer[:12]}…"
