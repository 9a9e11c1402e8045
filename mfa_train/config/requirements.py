"""What a config value must be. Each check raises ConfigError, naming the key."""

import re
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


def require_no_secret(key: str, url: str) -> None:
    """A URL's password or signature would be kept in configs, manifests and logs; the error doesn't repeat it."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return
    place, _, query = rest.partition("?")
    user = re.match(r"[^/@]*:(?!\d+/)[^@]*@", place)  # not a port, and an @ behind it
    if user or re.search(r"(sig|signature|credential|token|secret|password|passwd|key|accesskeyid)=", query, re.I):
        host = place[user.end() :] if user else place
        raise ConfigError(f"{key}={scheme}://{host}: the URL as typed holds a password or a signature (not repeated "
                          "here); put credentials in the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
