"""lm-eval is an extra of its own: who trains and serves needs none of it."""

import importlib.util

from mfa_train.errors import ConfigError


def require_lm_eval(asked: str) -> None:
    """Raises ConfigError where it is missing; `asked`: what needs it."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(f"{asked} needs lm-eval, which is not installed: type pip install 'mfa-train[eval]'")
