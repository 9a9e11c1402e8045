"""The values of a run's config.yaml that something is computed from: each of its kind, or ValueError in one line."""

import contextlib
from typing import Any

from mfa_train.config import choices_of
from mfa_train.config.quantities import bytes_of
from mfa_train.errors import ConfigError
from mfa_train.scaling.study.plain_files import shown
from mfa_train.tracking.records import number

NUMBERS = (
    "model.num_hidden_layers",
    "model.hidden_size",
    "model.head_dim",
    "model.initialization.draw",
    "model.num_attention_heads",
    "optimizer.lr",
    "training.steps",
    "training.tokens",
    "training.batch_size",
    "training.sequence_length",
    "training.eval_sequences",
    "schedule.warmup_steps",
    "schedule.min_lr_ratio",
    "schedule.decay_fraction",
)
WORDS = ("attention.name", "plan.cache_dtype", "schedule.name", "precision", "tracking.group")
"""Keys, by what their values must be where they are there."""


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """The flat config, where what is computed from is of its kind. Raises ValueError."""
    for key in NUMBERS:
        value = config.get(key)
        if isinstance(value, str):  # as 1e-3, which is text in YAML
            value = config[key] = _of_text(value)
        if value is not None and not -1e19 <= (-1e300 if number(value) is None else value) <= 1e19:
            raise ValueError(f"config.yaml: {key} is {shown(value)}, expected a number")
    for key in WORDS:
        if config.get(key) is not None:
            config[key] = word(f"config.yaml: {key}", config[key])
    kind = config.get("model.feed_forward.name", "dense")
    if kind not in choices_of("feed_forward"):
        raise ValueError(f"config.yaml: model.feed_forward.name is {shown(kind)}, expected a kind of feed-forward")
    seed = config.get("seed")
    if seed is not None and not (isinstance(seed, int) and not isinstance(seed, bool) and abs(seed) < 2**64):
        raise ValueError(f"config.yaml: seed is {shown(seed)}, expected a whole number")
    if (budget := config.get("match.kv_bytes_per_token")) is not None:
        try:
            bytes_of("match.kv_bytes_per_token", budget)
        except (ConfigError, OverflowError):
            raise ValueError(f"config.yaml: match.kv_bytes_per_token is {shown(budget)}, expected bytes") from None
    return config


def word(where: str, value: Any) -> str:
    """The value, which must be text; `where` it stands is told in the ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} is {shown(value)}, expected a word")
    return shown(value)


def _of_text(text: str) -> Any:
    """The number that text is, or the text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
