"""The members of a sweep: every combination of the values that are typed with commas, and of those a ready sweep
(configs/sweep/) goes over.

A member's overrides are what `train.py` would be given for it alone. Its name is the run's own, with what is swept
beside attention and model, so that members never share a folder, and the same command means the same folders.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mfa_train.config.compose import CONFIG_DIR, explained, load
from mfa_train.config.schema import Config
from mfa_train.errors import ConfigError


@dataclass(frozen=True)
class Member:
    swept: list[str]
    """KEY=VALUE of each swept key."""
    overrides: list[str]
    """All of them, name and W&B group included."""
    config: Config
    after: Path | None = None
    """The folder of a run that must have finished before."""

    @property
    def label(self) -> str:
        """`mla seed=2` of attention=mla training.seed=2."""
        return " ".join(re.sub(r"^(attention|model)=|^.*\.(?=\w+=)", "", choice) for choice in self.swept)


def members(overrides: Sequence[str]) -> list[Member]:
    """The first key varies slowest. Raises ConfigError, also where two members would have one name."""
    parsed = _parsed(overrides)
    for override in parsed:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise ConfigError(f"{override.input_line}: expected values one by one, as attention=mha,mfa")
    typed = [[f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
             for override in parsed if override.is_sweep_override()]
    for choices in typed:
        twice = next((choice for place, choice in enumerate(choices) if choice in choices[:place]), None)
        if twice:
            raise ConfigError(f"{twice} stands twice among the values to sweep over: type it once")
    fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
    named = any(override.key_or_group == "name" for override in parsed)
    ready = chosen_sweep(overrides)
    found = [_member(list(choices), fixed, named, ready)
             for typed_choices in itertools.product(*typed)
             for choices in _with_ready(list(typed_choices), fixed, parsed)]
    by_folder: dict[Path, Member] = {}
    for member in found:
        other = by_folder.setdefault(member.config.run_dir, member)
        if other is not member:
            raise ConfigError(f"{' '.join(other.swept)} and {' '.join(member.swept)} would both be the run "
                              f"{member.config.run_dir}: type name=… with values that differ, or none")
    return found


def require_one(config: Config, typed: Sequence[str]) -> None:
    """Raises ConfigError where `typed` chose a ready sweep and leaves keys that it goes over open."""
    ready = f"sweep={chosen}" if (chosen := chosen_sweep(typed)) else "sweep"
    if config.sweep.ladder is not None:
        raise ConfigError(f"{ready} is a ladder of many runs: type -m as well")
    for key, values in config.sweep.over.items():
        if not any(word.startswith(f"{key}=") for word in typed):
            raise ConfigError(f"{ready} goes over {key}: type -m as well, or one member, as {key}={written(values[0])}")


def chosen_sweep(typed: Sequence[str]) -> str | None:
    """The ready sweep that was typed."""
    return next((word.partition("=")[2] for word in typed if word.startswith("sweep=")), None)


def _with_ready(typed: list[str], fixed: list[str], parsed: list[Override]) -> list[list[str]]:
    """`typed` with every combination of what the chosen ready sweep goes over, less the keys that are typed."""
    if not any(override.key_or_group.split(".")[0] == "sweep" for override in parsed):
        return [typed]
    over = load([*fixed, *typed]).sweep.over
    given = {override.key_or_group for override in parsed}
    return [[*typed, *choices] for choices in itertools.product(
        *([f"{key}={written(value)}" for value in values] for key, values in over.items() if key not in given))]


def _member(swept: list[str], fixed: list[str], named: bool, ready: str | None) -> Member:
    config, overrides = load([*fixed, *swept]), [*fixed, *swept]
    keys = [choice.split("=")[0] for choice in swept]
    if swept and "name" not in keys:
        told = () if named else ("attention", "model")  # by the default name
        beside = [as_name(choice) for choice in swept if choice.split("=")[0] not in told]
        config.name = "-".join([config.name, *beside])
        overrides.append(f"name={written(config.name)}")
    if swept and config.tracking.group is None:
        what = ready or "+".join(key.split(".")[-1] for key in keys)
        config.tracking.group = (what if "model" in keys else f"{config.model.name}-{what}")[:128]  # W&B takes no more
        overrides.append(f"tracking.group={written(config.tracking.group)}")
    return Member(swept, overrides, config)


def as_name(choice: str) -> str:
    """KEY=VALUE as part of a folder's name."""
    return re.sub(r"[^\w.=+-]", "_", choice)


def written(value: object) -> str:
    """As an override's value."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(written, value))}]"
    if not isinstance(value, str) or re.fullmatch(r"[\w.+-]+", value):
        return "null" if value is None else str(value)
    return "'" + re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", value) + "'"


def _parsed(overrides: Sequence[str]) -> list[Override]:
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
            return parser.parse_overrides(list(overrides))
    except HydraException as error:
        raise explained(error) from error
