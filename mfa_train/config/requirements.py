"""What a config value must be. Each check raises ConfigError, naming the key; NaN passes none.

Numbers have a largest value as well: beyond it something else overflows, or fills the memory, long after the start.
"""

import math
from collections.abc import Sequence
from typing import Any

from mfa_train.errors import ConfigError
from mfa_train.words import brief, printable

STEPS = 10**15
"""The most steps that anything is counted in."""
MOST_SEED = 2**64 - 1
WIDTH, SEQUENCE = 2**20, 2**26
"""The largest of a model's dimensions and of a sequence: more is a mistyped number, and overflows in a plan."""
NAME_BYTES = 200
"""Of a run's name: file systems take 255, and something is put behind it (NAME~1)."""


def require_choice(key: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={brief(value)}: expected one of {', '.join(map(str, choices))}")


def require_whole(key: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        bound = "" if isinstance(value, int) and value < least else f" and at most {most:,}"
        raise ConfigError(f"{key}={brief(value)}: expected a whole number of at least {least}{bound}")


def require_number(key: str, value: float, least: float, most: float, above: bool = False) -> None:
    """`above`: `least` itself is not enough."""
    if not least <= value <= most or (above and value == least):
        below = f"above {least:g}" if above else f"of at least {least:g}"
        too_much = math.isnan(value) or value > most
        raise ConfigError(
            f"{key}={brief(value)}: expected a number {below}{f' and at most {most:g}' if too_much else ''}"
        )


def require_not_negative(key: str, value: float, most: float = 1e38) -> None:
    require_number(key, value, 0, most)


def require_positive(key: str, value: int, most: int = STEPS) -> None:
    require_whole(key, value, 1, most)


def require_share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{key}={value}: expected a share between 0 and 1")


def require_printable(key: str, value: str) -> None:
    """Raises ConfigError for what a terminal doesn't show as it is: control characters, half a surrogate pair."""
    if not value.isprintable():
        raise ConfigError(f"{key}={printable(value)}: expected characters that a terminal shows, and no line breaks")


def require_folder_name(key: str, value: str) -> None:
    require_printable(key, value)
    if not value or "/" in value or value[0] in ".-~ " or value[-1] == " ":
        raise ConfigError(
            f"{key}={value!r}: expected a plain folder name, as {key}=my-run: no / in it, no dot, dash, ~ or space "
            "in front, no space behind"
        )
    if len(value.encode()) > NAME_BYTES:
        raise ConfigError(
            f"{key}={brief(value)}: expected a name of at most {NAME_BYTES} bytes, not {len(value.encode())}"
        )


def require_wandb_name(key: str, value: str | None, forbidden: str = "") -> None:
    """What W&B takes: at most 128 characters, none of them `forbidden`."""
    if value is None:
        return
    require_printable(key, value)
    if not value.strip() or len(value) > 128 or set(forbidden) & set(value):
        raise ConfigError(
            f"{key}={brief(value)}: W&B takes names of 1 to 128 characters"
            f"{f' without {forbidden}' if forbidden else ''}"
        )
