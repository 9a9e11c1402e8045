"""Files wherever fsspec reaches (local, s3://, gs://, hf://, …), and why one can't be reached, in one line."""

import contextlib
from collections.abc import Iterator

import fsspec
from fsspec.core import OpenFile
from fsspec.implementations.local import LocalFileSystem

from mfa_train.errors import ConfigError, DataError

REMOTE_PACKAGES = ("botocore", "aiohttp", "gcsfs", "adlfs", "azure", "google", "huggingface_hub", "httpx", "requests")
"""What these raise when a server refuses or can't be found isn't always an OSError."""


@contextlib.contextmanager
def reaching(told: str, error_type: type[ConfigError] | type[DataError]) -> Iterator[None]:
    """Turns what goes wrong on the way to a file into one `error_type` behind `told`: KEY=VALUE or a name."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{told}: {_first_line(error)}; for s3:// type pip install -e '.[s3]'") from error
    except FileNotFoundError as error:
        raise error_type(f"{told}: no such file, or no such bucket") from error
    except PermissionError as error:
        where = "; credentials belong in the environment, as AWS_ACCESS_KEY_ID or AWS_PROFILE" if "://" in told else ""
        raise error_type(f"{told}: access denied ({_first_line(error)}){where}") from error
    except (OSError, TimeoutError) as error:
        raise error_type(f"{told}: cannot be read ({_first_line(error)})") from error
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise
        raise ConfigError(f"{told}: {_first_line(error)}; expected a path, or a URL that fsspec opens") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in REMOTE_PACKAGES:
            raise
        raise error_type(f"{told}: cannot be reached ({_first_line(error)})") from error


def found(key: str, patterns: list[str]) -> list[OpenFile]:
    """The files of `patterns` (paths or URLs, with * and ** as in a shell), each once, sorted by name.

    Raises ConfigError where a pattern finds none or can't be reached.
    """
    files: dict[str, OpenFile] = {}
    for pattern in patterns:
        with reaching(f"{key}={pattern}", ConfigError):
            matching = fsspec.open_files(pattern, "rb")
            if not matching or not all(file.fs.isfile(file.path) for file in matching):
                raise FileNotFoundError(pattern)
        files |= {name(file): file for file in matching}
    return [files[file] for file in sorted(files)]


def name(file: OpenFile) -> str:
    """An absolute path, or a URL."""
    return file.path if isinstance(file.fs, LocalFileSystem) else file.full_name


def size(file: OpenFile) -> int | None:
    """Bytes, where the file system tells."""
    with reaching(name(file), DataError):
        return file.fs.size(file.path)


def content(key: str, url: str, most: int) -> bytes:
    """The whole file, of at most `most` bytes. Raises ConfigError."""
    with reaching(f"{key}={url}", ConfigError), fsspec.open(url, "rb") as file:
        read = file.read(most + 1)
    if len(read) > most:
        raise ConfigError(f"{key}={url}: more than {most:,} bytes, which is no tokenizer; expected a tokenizer.json or a sentencepiece model")
    return read


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
