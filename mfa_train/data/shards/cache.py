"""Files behind URLs, or spans of them, fetched into a folder of bounded size that all processes of a node share.

1. A file, or a span of one by a single request, is fetched in a thread of its own. A fetch that fails or stands still
   is tried again, later each time; one whose checksum is wrong is fetched once more and then named.
2. It gets its name in the folder when it is whole and checked; of two processes that want it one fetches.
3. Before a file is fetched, the files that were used longest ago make room for it. Whoever has one of them mapped keeps
   it. How many bytes there are is counted on in `room.lock`, so that the folder is looked through only where they no
   longer fit; what was removed by others, or given up, is found out then.
"""

import contextlib
import fcntl
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO, TypeVar

from fsspec import AbstractFileSystem

from mfa_train.data.reach import NoBucket, of_the_system
from mfa_train.data.shards.file_systems import FileSystems
from mfa_train.errors import DataError

Result = TypeVar("Result")
Span = tuple[int, int]
"""Bytes [begin, end) of a file."""

ATTEMPTS = 6
ATTEMPTS_TO_OPEN = 3
"""Of a corpus that is opened, where no server answers: its URL may be wrong. A shard is wanted by a run that goes
on."""
FIRST_PAUSE_SECONDS = 0.5
"""Before the second attempt, doubled for each further one; half of it to one and a half times it, by chance: a thousand
processes that failed at once would else come back at once."""
LOCKS = 1024
"""Files that processes wait for each other at, one for some of the cached ones."""
SPARE = 64
"""Where room is needed, this share of the capacity is made: the folder is not looked through for each part."""
STALL_SECONDS = 60.0
"""Without a byte, after which a fetch is given up."""
PART_BYTES = 2**22
FINAL = (FileNotFoundError, PermissionError, ImportError, ValueError)
"""What waiting doesn't mend: no such file, wrong credentials, a protocol that isn't installed or known."""
CHANCE = random.Random()
"""Apart from the run's own seed."""
UNANSWERED = (
    "Name or service not known",
    "Temporary failure in name resolution",
    "Connect call failed",
    "Connection refused",
    "Could not connect",
    "Cannot connect",
)


class OutOfReach(DataError):
    """A URL that cannot be read, raised from one of FINAL: whoever typed it, or its credentials, has to mend it."""


def is_url(location: str) -> bool:
    return "://" in location


class ShardCache:
    """The cache in `folder`, of at most `capacity` bytes. The folder appears when something is fetched."""

    def __init__(self, folder: Path | str, capacity: int, say: Callable[[str], None] = lambda message: None):
        self.folder, self.capacity, self.say = Path(folder), capacity, say
        self.file_systems = FileSystems()

    def fetch(self, url: str, sha256: str | None, span: Span | None = None) -> Path:
        """The file of `url` here, or the span of it, with that checksum where one is given. Raises DataError naming
        it, or the folder that cannot be written."""
        path = self._place(url, sha256, span)
        with self._alone(f"{int(path.name[:8], 16) % LOCKS:03x}"):
            try:
                os.utime(path)  # used now
            except FileNotFoundError:
                self._fetch(url, sha256, span, path)
        return path

    def _place(self, url: str, sha256: str | None, span: Span | None = None) -> Path:
        what = f"{url} {sha256}" if span is None else f"{url} {sha256} {span}"
        return self.folder / hashlib.sha256(what.encode()).hexdigest()[:32]

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[TextIO]:
        """Holds the lock of that name."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / f"{name}.lock", "a+")
        except OSError as error:
            raise DataError(
                f"data.cache_dir={self.folder}: cannot be written ({error.strerror}); type data.cache_dir=FOLDER "
                "with one that can"
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock

    def read(self, url: str) -> bytes:
        """The content of `url` as it is there now; nothing of it is kept. Raises DataError, for a file that isn't
        there from FileNotFoundError."""
        path = self._place(url, None)
        partial, _ = self._patiently(url, lambda again: _Fetch(self, url, None, path, again).result(), ATTEMPTS_TO_OPEN)
        content = partial.read_bytes()
        partial.unlink(missing_ok=True)
        return content

    def _fetch(self, url: str, sha256: str | None, span: Span | None, path: Path) -> None:
        damaged = False

        def attempt(again: bool) -> Path:
            nonlocal damaged
            partial, found = _Fetch(self, url, span, path, again).result()
            if sha256 in (None, found):
                return partial
            partial.unlink()
            if damaged:
                raise DataError(
                    f"{url}: damaged (fetched twice, and its checksum is not the manifest's): put it there again"
                )
            damaged = True
            raise OSError("damaged")

        partial = self._patiently(url, attempt)
        with self._alone("room"):  # a file that gets its name while others are counted may be missed
            partial.rename(path)

    def _patiently(self, url: str, attempt: Callable[[bool], Result], unanswered: int = ATTEMPTS) -> Result:
        """What `attempt` gives; tried again, which it is told, where waiting may help: `unanswered` times where no
        server answers. Raises DataError."""
        for number in range(ATTEMPTS):
            if number:
                time.sleep(FIRST_PAUSE_SECONDS * 2 ** (number - 1) * CHANCE.uniform(0.5, 1.5))
            try:
                return attempt(number > 0)
            except FINAL as error:
                raise OutOfReach(f"{url}: {reason(error)}") from error
            except OSError as error:
                failure = error
                self.say(f"{url}: {reason(error)}; attempt {number + 1} of {ATTEMPTS}")
                if number + 1 == unanswered and any(sign in str(error) for sign in UNANSWERED):
                    break
        raise DataError(f"{url}: could not be fetched in {number + 1} attempts ({reason(failure)})")

    def make_room(self, partial: Path, size: int) -> None:
        """Makes `partial`, of `size` bytes, and before that removes the files used longest ago until it fits."""
        with self._alone("room") as room:
            room.seek(0)
            told = room.read(32)
            total = size + (int(told) if told.isdecimal() else self.capacity)
            if total > self.capacity:
                total = size + self._remove_oldest(size)
            with partial.open("wb") as file:
                file.truncate(size)
            room.truncate(0)
            room.write(str(total))

    def _remove_oldest(self, size: int) -> int:
        """Removes files until `size` bytes fit, and some more; how many bytes are left."""
        files = sorted((stat.st_mtime, stat.st_size, path) for path, stat in _files(self.folder))
        left = sum(used for _, used, _ in files)
        if left + size <= self.capacity:
            return left
        for touched, used, path in files:
            if left + size <= self.capacity - self.capacity // SPARE:
                break
            if path.suffix == ".partial" and time.time() - touched < 2 * STALL_SECONDS:
                continue  # another fetch is at it; older ones belong to processes that were killed
            path.unlink(missing_ok=True)
            left -= used
        return left


class _Fetch:
    """One attempt, in a thread that can be left behind when it stands still."""

    def __init__(self, cache: ShardCache, url: str, span: Span | None, path: Path, again: bool):
        self.file_systems, self.make_room = cache.file_systems, cache.make_room
        self.url, self.span, self.again = url, span, again
        self.partial = path.with_name(f"{path.name}.{os.getpid()}-{time.monotonic_ns()}.partial")
        self.digest = hashlib.sha256()
        self.failure: BaseException | None = None
        self.moved = time.monotonic()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def result(self) -> tuple[Path, str]:
        """The whole file under a name of its own, and its sha256. Raises what fsspec raised, or TimeoutError."""
        self.thread.start()
        while self.thread.is_alive():
            self.thread.join(0.05)
            if time.monotonic() - self.moved > STALL_SECONDS:
                self.partial.unlink(missing_ok=True)
                raise TimeoutError(f"nothing came for {STALL_SECONDS:.0f} seconds")
        if self.failure is not None:
            self.partial.unlink(missing_ok=True)
            raise self.failure
        return self.partial, self.digest.hexdigest()

    def _run(self) -> None:
        try:
            with self.file_systems.of(self.url, self.again) as (filesystem, path):
                if self.span is None:
                    self._stream(filesystem, path)
                else:
                    self._take(filesystem, path, *self.span)
        except Exception as error:  # told by `result` in the caller's thread; fsspec's backends have no common type
            self.failure = failure_of(error)

    def _stream(self, filesystem: AbstractFileSystem, path: str) -> None:
        with filesystem.open(path, "rb", block_size=PART_BYTES, cache_type="readahead") as source:
            self.make_room(self.partial, source.size or 0)
            with self.partial.open("r+b") as file:
                while part := source.read(PART_BYTES):
                    self.moved = time.monotonic()
                    self.digest.update(part)
                    file.write(part)
                if source.size and file.tell() != source.size:
                    raise OSError(f"ended after {file.tell()} of {source.size} bytes")

    def _take(self, filesystem: AbstractFileSystem, path: str, begin: int, end: int) -> None:
        """A span, by one request."""
        content = filesystem.cat_file(path, start=begin, end=end)
        if len(content) != end - begin:
            raise OSError(f"ended after {len(content)} of {end - begin} bytes")
        self.moved = time.monotonic()
        self.digest.update(content)
        self.make_room(self.partial, len(content))
        with self.partial.open("r+b") as file:
            file.write(content)


def failure_of(error: BaseException) -> Exception:
    """What a backend raised, as one of FINAL or another OSError."""
    error = of_the_system(error)
    if isinstance(error, TypeError):  # a URL that lacks what its protocol needs
        return ValueError(str(error))
    return error if isinstance(error, (OSError, *FINAL)) else OSError(reason(error))


def reason(error: BaseException) -> str:
    """Why a URL can't be read, for a person, in one line without credentials."""
    if isinstance(error, FileNotFoundError):
        return "no such bucket" if isinstance(error, NoBucket) else "not found"
    if isinstance(error, PermissionError) or "credentials" in type(error).__name__.lower():
        return "access denied: are the credentials of this environment the right ones?"
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Cached files, also those on their way; locks are left out."""
    for path in folder.iterdir():
        if path.suffix != ".lock":
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()
