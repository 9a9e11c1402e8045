"""A run's folder in object storage, behind a URL that fsspec writes: URL/NAME/checkpoints/step-…/… and the files
beside, named as on disk. Of a checkpoint the manifest is written last and removed first, so one whose manifest is there
is whole.

Each call stands alone: what goes wrong on the way is an OSError, a server that lets nothing through for STALL_SECONDS a
TimeoutError, and `patiently` makes it again. Nothing here is a collective; credentials are those of the environment.

What it gives up: an attempt that stood still and was given up may come to its end later, and put what the run's own
files held then (metrics.jsonl) over what they hold now, until the next copy of them. A checkpoint's files are held
against its manifest.
"""

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from mfa_train.checkpoints.manifest import MANIFEST
from mfa_train.data.reach import mend
from mfa_train.data.shards.cache import FINAL, failure_of, reason
from mfa_train.errors import ConfigError

Result = TypeVar("Result")
Moved = Callable[[], None]
"""To be called whenever bytes went through."""

CHECKPOINTS = "checkpoints"
ATTEMPTS = 8
ATTEMPTS_TO_OPEN = 3
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 60.0
"""Before the second attempt; doubled for each further one."""
STALL_SECONDS = 120.0
"""Without a part, after which an attempt is given up."""
PART_BYTES, MOST_PARTS = 2**24, 9000
"""Of one file, held in memory one at a time. S3 takes 10,000 parts."""


class StoredRun:
    """The run `name` below `url`. Names are paths within its folder, as checkpoints/step-00000100/manifest.json."""

    def __init__(self, url: str, name: str):
        self.url = f"{url.rstrip('/')}/{name}"
        self.opened: tuple[Any, str] | None = None
        self.failed = 0
        """Calls in a row. A file system that may be the reason is made anew."""

    def put(self, local: Path, name: str) -> None:
        """Writes a file there; it appears whole. Raises OSError."""

        def act(filesystem: Any, path: str, moved: Moved) -> None:
            size = local.stat().st_size
            out = filesystem.open(f"{path}/{name}", "wb", block_size=max(PART_BYTES, -(-size // MOST_PARTS)))
            try:
                with local.open("rb") as file:
                    while part := file.read(PART_BYTES):
                        out.write(part)
                        moved()
                out.close()
            except BaseException:
                out.closed = True  # closing it, as its end otherwise does, would make what came so far the file
                with contextlib.suppress(Exception):
                    out.discard()
                raise

        self._once(act)

    def get(self, name: str, local: Path) -> str:
        """Reads a file into `local`; gives its SHA-256. Raises OSError."""

        def act(filesystem: Any, path: str, moved: Moved) -> str:
            digest, taken = hashlib.sha256(), 0
            with filesystem.open(f"{path}/{name}", "rb", block_size=PART_BYTES, cache_type="readahead") as source:
                with local.open("wb") as file:
                    while part := source.read(PART_BYTES):
                        digest.update(part)
                        taken += file.write(part)
                        moved()
                if source.size and taken != source.size:
                    raise OSError(f"ended after {taken} of {source.size} bytes")
            return digest.hexdigest()

        return self._once(act)

    def read(self, name: str) -> bytes:
        """The whole of a small file. Raises OSError."""
        return self._once(lambda filesystem, path, moved: filesystem.cat_file(f"{path}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """A small file. Raises OSError."""
        self._once(lambda filesystem, path, moved: filesystem.pipe_file(f"{path}/{name}", content))

    def remove(self, names: Sequence[str]) -> None:
        """Those of them that are there. Raises OSError."""

        def act(filesystem: Any, path: str, moved: Moved) -> None:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    filesystem.rm_file(f"{path}/{name}")
                moved()

        self._once(act)

    def sizes(self, under: str = "") -> dict[str, int]:
        """Bytes of every file, by its name; `under` a folder where one is given. Raises OSError."""

        def act(filesystem: Any, path: str, moved: Moved) -> dict[str, int]:
            found = filesystem.find(f"{path}/{under}".rstrip("/"), detail=True)
            start = path.strip("/") + "/"
            return {name.strip("/").removeprefix(start): info["size"] for name, info in found.items()}

        return self._once(act)

    def checkpoints(self) -> dict[int, dict[str, int]]:
        """By step, of each checkpoint of which anything is there, `sizes`. Raises OSError."""
        found: dict[int, dict[str, int]] = {}
        for name, size in self.sizes(CHECKPOINTS).items():
            if match := re.fullmatch(rf"{CHECKPOINTS}/step-(\d{{8,}})/[^/]+", name):
                found.setdefault(int(match[1]), {})[name] = size
        return found

    def abort_begun(self) -> None:
        """Has S3 forget the parts of files that a killed process was writing: nobody sees them, and they are paid for.
        Where it may not, they stay."""

        def act(filesystem: Any, path: str, moved: Moved) -> None:
            if hasattr(filesystem, "abort_mpu"):
                bucket, key, _ = filesystem.split_path(path)
                listed = filesystem.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key}/")
                for upload in listed.get("Uploads") or []:
                    filesystem.abort_mpu(bucket, upload["Key"], upload["UploadId"])
                    moved()

        with contextlib.suppress(OSError):
            self._once(act)

    def require_writable(self, probe: str) -> None:
        """Writes and removes a file of that name. Raises ConfigError where it can't, in one line; OSError where the
        server answered nothing of use."""
        self.read_or_refuse(lambda: self.write(probe, b"."))
        self.read_or_refuse(lambda: self.remove([probe]))

    def read_or_refuse(self, act: Callable[[], Result]) -> Result:
        """`patiently`, before a run begins: what waiting doesn't mend is a ConfigError."""
        try:
            return patiently(act, ATTEMPTS_TO_OPEN, final=FINAL)
        except FINAL as error:
            told = "no such bucket" if isinstance(error, FileNotFoundError) else why(error)
            raise ConfigError(
                f"checkpoint.upload: {self.url} cannot be written ({told}){mend(error, self.url)}"
            ) from error

    def _once(self, act: Callable[[Any, str, Moved], Result]) -> Result:
        """One attempt, in a thread that is left behind when it stands still."""
        results: list[Result] = []
        failures: list[BaseException] = []
        last = time.monotonic()

        def moved() -> None:
            nonlocal last
            last = time.monotonic()

        def run() -> None:
            try:
                filesystem, path = self.opened = self.opened or fsspec.url_to_fs(
                    self.url, skip_instance_cache=True, use_listings_cache=False
                )
                results.append(act(filesystem, path, moved))
            except Exception as error:  # raised in the caller's thread; fsspec's backends have no common type
                failures.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.05)
            if thread.is_alive() and time.monotonic() - last > STALL_SECONDS:
                self.opened = None
                raise TimeoutError(f"nothing went through for {STALL_SECONDS:.0f} seconds")
        self.failed = self.failed + 1 if failures else 0
        if failures:
            if self.failed > 2:
                self.opened = None
            raise failure_of(failures[0])
        return results[0]


def patiently(
    act: Callable[[], Result],
    attempts: int = ATTEMPTS,
    failed: Callable[[str], None] = lambda reason: None,
    final: tuple[type[Exception], ...] = (ImportError,),
) -> Result:
    """What `act` gives; made again where it raises an OSError, each time later, and `failed` is told why. `final` are
    the errors that waiting doesn't mend. Raises the last one."""
    for number in range(attempts):
        try:
            return act()
        except final:
            raise
        except (OSError, ValueError) as error:  # ValueError: an answer that was cut off, read as another
            failed(why(error))
            if number + 1 == attempts:
                raise
            time.sleep(min(FIRST_PAUSE_SECONDS * 2**number, LONGEST_PAUSE_SECONDS))
    raise AssertionError("attempts < 1")


def why(error: BaseException) -> str:
    """What went wrong, in one line without credentials."""
    return reason(error).removeprefix("OSError: ")


def is_whole(files: dict[str, int]) -> bool:
    """Whether the checkpoint of which `files` are there is: its manifest is the last that comes and the first that
    goes."""
    return any(name.endswith(f"/{MANIFEST}") for name in files)


def require_known(url: str) -> None:
    """Raises ConfigError where nothing is installed that reaches such a URL; asks no server."""
    try:
        fsspec.get_filesystem_class(url.partition("://")[0])
    except ImportError as error:
        raise ConfigError(f"checkpoint.upload={url}: {why(error)}{mend(error, url)}") from error
    except ValueError as error:
        raise ConfigError(f"checkpoint.upload={url}: {error}; expected a URL, as s3://BUCKET/PREFIX") from error
