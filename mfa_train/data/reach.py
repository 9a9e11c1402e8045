"""Files wherever fsspec reaches (local, s3://, gs://, hf://, …), and why one can't be reached, in one line."""

import contextlib
import io
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.core import OpenFile
from fsspec.implementations.local import LocalFileSystem

from mfa_train.errors import ConfigError, DataError, UserError
from mfa_train.words import first_line

Result = TypeVar("Result")

ANSWER_SECONDS = 60.0
"""After which a server that says nothing is given up."""
SHORT = 64
"""Bytes that are waited for: what a file is shows in its first ones."""
DENIED = ("NoCredentials", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
"""In what botocore raises, or names: wrong credentials, or none."""
TOKENIZER_BYTES = 2**28
"""More is no tokenizer: `content` reads no further."""


@contextlib.contextmanager
def reaching(what: str, error_type: type[ConfigError] | type[DataError]) -> Iterator[None]:
    """Turns what goes wrong on the way to a file into one `error_type` behind `what`: KEY=VALUE or a name. Inside stand
    calls of fsspec alone: a dozen libraries raise what they like, and no bug of ours may pass for a file that can't be
    read."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise ConfigError(f"{what}: {first_line(error)}{mend(error, what)}") from error
    except FileNotFoundError as error:
        if (cause := really(error)) is not error:
            raise error_type(f"{what}: cannot be read ({first_line(cause)})") from error
        raise error_type(f"{what}: no such file, or no such bucket") from error
    except PermissionError as error:
        raise error_type(f"{what}: access denied ({first_line(error)}){mend(error, what)}") from error
    except Exception as error:
        if "Protocol not known" in str(error):
            raise ConfigError(f"{what}: {first_line(error)}; expected a path, or a URL that fsspec opens") from error
        if isinstance(error, (TypeError, ValueError)):  # of what parses the URL
            raise error_type(f"{what}: cannot be read as a path or URL ({first_line(error)})") from error
        how = "read" if isinstance(error, OSError) else "reached"
        raise error_type(f"{what}: cannot be {how} ({first_line(error)})") from error


def mend(error: BaseException | None, url: str) -> str:
    """What to do where `url`, or KEY=URL, can't be reached for want of a package or of credentials, to stand behind
    what is told of the error; else nothing."""
    if isinstance(error, ImportError) and ("s3" in str(error) or re.search(r"\bs3a?://", url)):
        return "; type pip install -e '.[s3]'"
    if isinstance(error, PermissionError) and "://" in url:
        return "; credentials belong in the environment, as AWS_ACCESS_KEY_ID or AWS_PROFILE"
    return ""


def really(error: Exception) -> Exception:
    """Why a file isn't there: fsspec tells of a server that can't be reached, over HTTP, as of a file that isn't."""
    cause = error.__cause__
    if (
        not isinstance(error, FileNotFoundError)
        or not isinstance(cause, Exception)
        or isinstance(cause, FileNotFoundError)
    ):
        return error
    return error if getattr(cause, "status", None) in (404, 410) else cause


class NoBucket(FileNotFoundError):
    """No bucket of that name is there."""


def of_the_system(error: BaseException) -> BaseException:
    """What a backend raised, as Python's own where it says that something isn't there or isn't allowed: not each of
    fsspec's translates all that its server answers."""
    if isinstance(error, Exception):
        error = really(error)
    told = f"{type(error).__name__} {error}"
    if "NoSuchBucket" in told or "bucket does not exist" in told:
        return NoBucket("no such bucket")
    if not isinstance(error, OSError) and any(sign in told for sign in DENIED):
        return PermissionError(str(error))
    return error


def require_place(what: str, url: str) -> None:
    """Raises ConfigError for a URL that names no host and no bucket."""
    if re.fullmatch(r"[\w+.-]*:/+", url):
        raise ConfigError(f"{what}: names no file; expected a path, or a URL as s3://BUCKET/FILE")


class Raw(io.RawIOBase):
    """The bytes of an open file, whichever kind its file system gives: what goes wrong is a DataError that names
    `name`."""

    def __init__(self, file: BinaryIO, name: str):
        self.file, self.name, self.taken = file, name, 0
        """`taken`: bytes that were read."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.file.seekable()

    def readinto(self, buffer: Any) -> int:
        part = b""
        with reaching(self.name, DataError):
            while len(part) < min(len(buffer), SHORT) and (more := self.file.read(len(buffer) - len(part))):
                part += more
        buffer[: len(part)] = part
        self.taken += len(part)
        return len(part)

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        with reaching(self.name, DataError):
            return self.file.seek(place, whence)

    def tell(self) -> int:
        with reaching(self.name, DataError):
            return self.file.tell()


def promptly(call: Callable[[], Result]) -> Result:
    """What `call` gives or raises; TimeoutError where nothing comes for ANSWER_SECONDS. Its thread is left behind
    then."""
    results: list[Result] = []
    failures: list[BaseException] = []

    def act() -> None:
        try:
            results.append(call())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if failures:
        raise failures[0]
    if not results:
        raise TimeoutError(f"no answer for {ANSWER_SECONDS:.0f} seconds")
    return results[0]


def is_local(file: OpenFile) -> bool:
    return isinstance(file.fs, LocalFileSystem)


def name(file: OpenFile) -> str:
    """An absolute path, or a URL."""
    return file.path if is_local(file) else file.full_name


def size(file: OpenFile) -> int | None:
    """Bytes, where the file system tells."""
    with reaching(name(file), DataError):
        return file.fs.size(file.path) if is_local(file) else promptly(lambda: file.fs.size(file.path))


def content(key: str, url: str) -> bytes:
    """The whole file. Raises ConfigError."""
    require_place(f"{key}={url}", url)
    if "://" not in url and os.path.exists(url):
        mode = os.stat(url).st_mode
        if stat.S_ISDIR(mode):
            raise ConfigError(f"{key}={url}: a folder; expected the file in it, as {url.rstrip('/')}/tokenizer.json")
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{key}={url}: {irregular(mode)}, not a file")

    def read() -> bytes:
        with fsspec.open(url, "rb") as file:
            return file.read(TOKENIZER_BYTES + 1)

    with reaching(f"{key}={url}", ConfigError):
        found = promptly(read)
    if len(found) > TOKENIZER_BYTES:
        raise ConfigError(f"{key}={url}: more than {TOKENIZER_BYTES:,} bytes, which no tokenizer has")
    return found


def irregular(mode: int) -> str:
    """What something on disk is that is neither file nor folder."""
    kinds = (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "something odd")
