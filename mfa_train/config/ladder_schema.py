"""The part of the schema that is about ladders: many sizes and token budgets of every variant, for scaling laws."""

import re
from dataclasses import dataclass
from typing import Any

from mfa_train.config.requirements import require_choice
from mfa_train.errors import ConfigError, did_you_mean

RULES = ("step_law", "size")


@dataclass
class RungConfig:
    """One size. What is null is the ladder's."""

    model: str
    """A choice of the group model."""
    seeds: list[int] | None = None
    tokens_per_parameter: list[float] | None = None
    flops: list[float] | None = None
    batch_size: int | None = None
    """Sequences in a step."""


@dataclass
class LadderConfig:
    """Every variant at every rung, seed and token budget; see `mfa_train.scaling.ladder.members`."""

    variants: dict[str, Any]
    """Overrides of each, by its name; `attention` is the name where it isn't one of them, `kv_shares` the ladder's.
    null leaves one out that a ladder below has."""
    rungs: list[RungConfig]
    """None: one, of the config's own model."""
    seeds: list[int]
    kv_shares: list[float]
    """KV caches that variants are matched to, as shares of what the size's MHA has."""
    tokens_per_parameter: list[float] | None
    """Token budgets as multiples of the reference's parameters, embeddings included."""
    flops: list[float] | None
    """Instead: of the reference's training at each token budget. The other variants get the same tokens."""
    learning_rate: str
    """step_law (arXiv 2503.04715, at the largest budget) | size (the model's own)."""
    learning_rate_factors: dict[str, float]
    """By variant, or by VARIANT@SHARE; 1 where there is none."""
    batch_size: str
    """step_law (to the nearest power of two) | size (training.batch_size)."""
    branches: bool
    """The smaller budgets branch off the largest one's run where its WSD schedule would begin to decay for them."""

    def __post_init__(self):
        self.variants = {name: overrides for name, overrides in self.variants.items() if overrides is not None}
        if not self.variants:
            raise ConfigError("sweep.ladder.variants={}: expected variants by name, as {mha: {}, mfa: {}}")
        for name, overrides in self.variants.items():
            if not re.fullmatch(r"[\w.-]+", name):
                raise ConfigError(f"sweep.ladder.variants: {name!r}: expected a name of letters, digits, _, - and .")
            if not isinstance(overrides, dict):
                raise ConfigError(
                    f"sweep.ladder.variants.{name}={overrides}: expected overrides, as {{kv_shares: [0.25]}}, "
                    "{} for none, or null to leave it out"
                )
            _require_shares(f"sweep.ladder.variants.{name}.kv_shares", overrides.get("kv_shares") or [])
        for key in ("learning_rate", "batch_size"):
            require_choice(f"sweep.ladder.{key}", getattr(self, key), RULES)
        for name, factor in self.learning_rate_factors.items():
            _require_above_zero(f"sweep.ladder.learning_rate_factors.{name}", factor)
            if name.split("@")[0] not in self.variants:
                raise ConfigError(
                    f"sweep.ladder.learning_rate_factors.{name}: no such variant."
                    f"{did_you_mean(name.split('@')[0], self.variants)}"
                )
        _require_shares("sweep.ladder.kv_shares", self.kv_shares)
        asked: list[tuple[str, LadderConfig | RungConfig]] = [("sweep.ladder", self)]
        for where, rung in asked + [(f"sweep.ladder.rungs: {rung.model}", rung) for rung in self.rungs]:
            if rung.seeds == []:
                raise ConfigError(f"{where}.seeds=[]: expected seeds, as [1,2,3]")
            if rung.seeds and len(set(rung.seeds)) < len(rung.seeds):
                raise ConfigError(f"{where}.seeds={rung.seeds}: a seed stands there twice: type each once")
            if isinstance(rung.batch_size, int) and rung.batch_size < 1:
                raise ConfigError(f"{where}.batch_size={rung.batch_size}: expected a whole number of at least 1")
            if None not in (rung.tokens_per_parameter, rung.flops):
                raise ConfigError(
                    f"{where}: tokens_per_parameter and flops both say how long: type null for one of them"
                )
            for key in ("tokens_per_parameter", "flops"):
                for value in getattr(rung, key) or []:
                    _require_above_zero(f"{where}.{key}", value)


def _require_shares(key: str, shares: object) -> None:
    if not isinstance(shares, list):
        raise ConfigError(f"{key}={shares}: expected a list, as [0.25]")
    for share in shares:
        if isinstance(share, bool) or not isinstance(share, (int, float)):
            raise ConfigError(f"{key}: {share!r}: expected a number, as [0.25]")
        _require_share(key, share)


def _require_share(key: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ConfigError(f"{key}={share}: expected shares of MHA's cache above 0 and up to 1, as [0.25,0.125]")


def _require_above_zero(key: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ConfigError(f"{key}={value}: expected a number above 0")
