"""What a config value must be. Each check raises ConfigError, naming the key."""

from collections.abc import Sequence
from typing import Any

from mfa_train.errors import ConfigError


def require_choice(key: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value}: expected one of {', '.join(map(str, choices))}")


def require_not_negative(key: str, value: float) -> None:
    if not 0 <= value < float("inf"):  # nan neither
        raise ConfigError(f"{key}={value}: expected a number of at least 0")


def require_positive(key: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{key}={value}: expected a whole number of at least 1")
