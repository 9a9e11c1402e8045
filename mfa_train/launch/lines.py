"""The lines of a small text file that a person wrote: cluster.environment, cluster.hostfile."""

import os
import stat

from mfa_train.errors import ConfigError

MOST_BYTES = 2**20


def lines_of(key: str, file: str, expected: str) -> list[tuple[int, str]]:
    """The lines that are neither empty nor comments (#), without the spaces around them, with their numbers. Raises
    ConfigError, naming the line, for one that is not UTF-8 or holds control characters; lines are not repeated."""
    told = f"{key}={file}"
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{told}: not a plain file: expected {expected}")
            content = opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{told}: cannot be read ({getattr(error, 'strerror', None) or error}): expected {expected}"
        ) from None
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{told}: is larger than 1 MiB: expected {expected}")
    found = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise ConfigError(f"{told}: line {number}: is not UTF-8 text: save the file as UTF-8") from None
        if any(not character.isprintable() and character != "\t" for character in line):
            raise ConfigError(
                f"{told}: line {number}: holds characters that a terminal doesn't show (as a byte order mark): "
                "delete them"
            )
        if line and not line.startswith("#"):
            found.append((number, line))
    return found
