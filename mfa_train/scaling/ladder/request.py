"""A ladder as it was typed: what chooses among its variants, sizes and seeds, and what is set for all of its runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mfa_train.config import Config, LadderConfig, Member, RungConfig
from mfa_train.config.sweeps import chosen_sweep
from mfa_train.errors import ConfigError

CHOOSE = ("attention", "model", "seed")
"""Keys that the ladder goes over itself: typed, they choose among what it has."""
NOT_TYPED = {
    "training.steps": "sweep.ladder.tokens_per_parameter=[…]",
    "training.tokens": "sweep.ladder.tokens_per_parameter=[…]",
    "match.kv_bytes_per_token": "sweep.ladder.kv_shares=[…]",
    "resume": "it without sweep for one run",
}
"""Keys that the ladder sets, and what to type instead."""
LENGTHS = {"sweep.ladder.tokens_per_parameter", "sweep.ladder.flops"}


@dataclass(frozen=True)
class Request:
    """One ladder of a sweep: where other keys are swept beside it, there is one for each of their values."""

    ladder: LadderConfig
    config: Config
    """Composed of what was typed, before a member's own keys."""
    typed: set[str]
    """The keys that were typed."""
    overrides: list[str]
    """Those that are set for all of the runs."""
    beside: list[str]
    """KEY=VALUE of what is swept beside the ladder."""
    name: str | None
    """What the runs' names begin with, where it was typed."""
    group: str
    """The runs' group in W&B."""

    def chosen(self, key: str) -> str | None:
        """The attention or model that was typed; None where all of the ladder's are meant."""
        if key not in self.typed:
            return None
        return str(self.config.attention["name"] if key == "attention" else self.config.model.name)

    def seeds(self, rung: RungConfig) -> list[int]:
        """The seeds that a size is trained with."""
        return [self.config.seed] if "seed" in self.typed else rung.seeds or self.ladder.seeds

    def without_typed(self, rung: RungConfig) -> RungConfig:
        """The rung without what was typed for the whole ladder, which goes before its own."""
        long = self.typed & LENGTHS
        return replace(
            rung,
            seeds=None if "sweep.ladder.seeds" in self.typed else rung.seeds,
            tokens_per_parameter=None if long else rung.tokens_per_parameter,
            flops=None if long else rung.flops,
            batch_size=None if "sweep.ladder.batch_size" in self.typed else rung.batch_size,
        )


def requested(base: Member, ladder: LadderConfig, overrides: Sequence[str]) -> Request:
    """The `ladder` of `base`, a member of what `overrides` describe. Raises ConfigError for keys that a ladder sets
    itself."""
    typed = {word.split("=")[0].lstrip("+") for word in overrides}
    for key, instead in NOT_TYPED.items():
        if key in typed:
            raise ConfigError(f"{key}: a ladder sets it itself: type {instead}")
    return Request(
        ladder,
        base.config,
        typed,
        [
            word
            for word in base.overrides
            if word.split("=")[0] not in (*CHOOSE, "name", "tracking.group")
            and not word.lstrip("+").startswith("sweep.ladder")
        ],
        [choice for choice in base.swept if choice.split("=")[0] not in CHOOSE],
        base.config.name if "name" in typed else None,
        base.config.tracking.group or chosen_sweep(overrides) or "ladder",
    )
