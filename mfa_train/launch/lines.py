"""The lines of a small text file that a person wrote: cluster.environment, cluster.hostfile."""

import os
import stat

from mfa_train.errors import ConfigError

MOST_BYTES = 2**20


def lines_of(key: str, file: str, expected: str) -> list[tuple[int, str]]:
    """The lines of `file`, the value of the config's `key`, that are neither empty nor comments (#): each with its
    number, without the spaces around it.

    Raises ConfigError, which says what is `expected`, where there is no such file; and naming the line, whose words it
    does not repeat, for one that is not UTF-8 or holds control characters.
    """
    given = f"{key}={file}"
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{given}: not a plain file: expected {expected}")
            content = opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{given}: cannot be read ({getattr(error, 'strerror', None) or error}): expected {expected}"
        ) from None
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{given}: is larger than 1 MiB: expected {expected}")
    lines = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise ConfigError(f"{given}: line {number}: is not UTF-8 text: save the file as UTF-8") from None
        if any(not character.isprintable() and character != "\t" for character in line):
            raise ConfigError(
                f"{given}: line {number}: holds characters that a terminal doesn't show (as a byte order mark): "
                "delete them"
            )
        if line and not line.startswith("#"):
            lines.append((number, line))
    return lines
