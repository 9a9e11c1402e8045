"""The members of a sweep: every combination of the values that are typed with commas, and of those a ready sweep
(configs/sweep/) goes over.

A member's overrides are what `train.py` would be given for it alone. Its name is the run's own, with what is swept
beside attention and model, so that members never share a folder, and the same command means the same folders.
"""

import hashlib
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

from mfa_train.config.compose import load
from mfa_train.config.hydra_errors import FORM, explained
from mfa_train.config.overrides import CONFIG_DIR, as_meant, holds_text, key_of, values, written
from mfa_train.config.requirements import NAME_BYTES
from mfa_train.config.schema import Config
from mfa_train.errors import ConfigError
from mfa_train.words import first_line

MOST_MEMBERS = 2_000
FUNCTION = re.compile(r"\s*(choice|range|glob|sort|shuffle|tag|interval)\s*\(")
"""Of Hydra's grammar, that make several values."""


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
    choices, fixed = [], []
    for word in overrides:
        several = _choices(word)
        if several == [word]:
            fixed.append(word)
        else:
            choices.append(several)
    _require_few(choices)
    for several in choices:
        if twice := next((one for one in several if several.count(one) > 1), None):
            raise ConfigError(f"{twice} stands twice among the values to sweep over: type it once")
    given = {key_of(word) for word in overrides}
    ready = chosen_sweep(overrides)
    found = [
        _member(list(chosen), fixed, "name" in given, ready)
        for typed in itertools.product(*choices)
        for chosen in _with_ready(list(typed), fixed, given)
    ]
    by_folder: dict[Path, Member] = {}
    for member in found:
        other = by_folder.setdefault(member.config.run_dir, member)
        if other is not member:
            raise ConfigError(
                f"{' '.join(other.swept)} and {' '.join(member.swept)} would both be the run "
                f"{member.config.run_dir}: type name=… with values that differ, or none"
            )
    return found


def require_one(config: Config, typed: Sequence[str]) -> None:
    """Raises ConfigError where `typed` chose a ready sweep and leaves keys that it goes over open."""
    ready = f"sweep={chosen}" if (chosen := chosen_sweep(typed)) else "sweep"
    if config.sweep.ladder is not None:
        raise ConfigError(f"{ready} is a ladder of many runs: type -m as well")
    for key, choices in config.sweep.over.items():
        if not any(word.startswith(f"{key}=") for word in typed):
            raise ConfigError(
                f"{ready} goes over {key}: type -m as well, or one member, as {key}={written(choices[0])}"
            )


def chosen_sweep(typed: Sequence[str]) -> str | None:
    """The ready sweep that was typed."""
    return next((word.partition("=")[2] for word in typed if word.startswith("sweep=")), None)


def _choices(word: str) -> list[str]:
    """KEY=VALUE of each of the values that are typed; the word itself where it is one value."""
    value = word.partition("=")[2]
    if holds_text(key_of(word)) and not FUNCTION.match(value):
        found = values(word)
        return found if len(found) > 1 else [word]
    [override] = _parsed([*as_meant([word])] if not holds_text(key_of(word)) else [word])
    if not override.is_sweep_override():
        return [word]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{word}: expected values one by one, as attention=mha,mfa")
    try:
        found = [
            f"{override.get_key_element()}={one}"
            for one in itertools.islice(override.sweep_string_iterator(), MOST_MEMBERS + 1)
        ]
    except (HydraException, ValueError, TypeError, ArithmeticError) as error:  # as of range(1,9,0)
        raise ConfigError(f"{word}: {first_line(error)}: expected values one by one, as seed=1,2,3") from error
    if not found:
        raise ConfigError(f"{word}: holds no value: expected values one by one, as seed=1,2,3")
    return found


def _require_few(choices: list[list[str]]) -> None:
    """Raises ConfigError where composing the members alone would take hours."""
    number = 1
    for several in choices:
        number *= len(several)
    if number > MOST_MEMBERS:
        most = max(choices, key=len)
        raise ConfigError(
            f"{most[0]}, …: more than {MOST_MEMBERS:,} members: type fewer values, and the rest as another sweep"
        )


def _with_ready(typed: list[str], fixed: list[str], given: set[str]) -> list[list[str]]:
    """`typed` with every combination of what the chosen ready sweep goes over, less the keys that are typed."""
    if not any(key.split(".")[0] == "sweep" for key in given):
        return [typed]
    over = load([*fixed, *typed]).sweep.over
    choices = [[f"{key}={written(value)}" for value in several] for key, several in over.items() if key not in given]
    if not all(choices):
        raise ConfigError(f"sweep.over={over}: a key without values: expected some, as {{seed: [1, 2]}}")
    _require_few(choices)
    return [[*typed, *chosen] for chosen in itertools.product(*choices)]


def _member(swept: list[str], fixed: list[str], named: bool, ready: str | None) -> Member:
    overrides = as_meant([*fixed, *swept])
    config = load(overrides)
    keys = [choice.split("=")[0] for choice in swept]
    if swept and "name" not in keys:
        told = () if named else ("attention", "model")  # by the default name
        beside = [as_name(choice) for choice in swept if choice.split("=")[0] not in told]
        config.name = cut("-".join([config.name, *beside]))
        overrides.append(f"name={written(config.name)}")
    if swept and config.tracking.group is None:
        what = ready or "+".join(key.split(".")[-1] for key in keys)
        config.tracking.group = cut(what if "model" in keys else f"{config.model.name}-{what}", 120)  # W&B takes 128
        overrides.append(f"tracking.group={written(config.tracking.group)}")
    return Member(swept, overrides, config)


def as_name(choice: str) -> str:
    """KEY=VALUE as part of a folder's name."""
    return re.sub(r"[^\w.=+-]", "_", choice)


def cut(name: str, most: int = NAME_BYTES) -> str:
    """`name` in at most so many bytes; what is cut is told apart by its hash, so that names that differ still do."""
    content = name.encode()
    if len(content) <= most:
        return name
    return f"{content[: most - 9].decode(errors='ignore')}-{hashlib.sha256(content).hexdigest()[:8]}"


def _parsed(overrides: Sequence[str]) -> list[Override]:
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
            return parser.parse_overrides(list(overrides))
    except HydraException as error:
        raise explained(error) from error
    except (ValueError, TypeError, AttributeError, KeyError, AssertionError, RecursionError, OSError) as error:
        raise ConfigError(f"{' '.join(overrides)}: {first_line(error)}: {FORM}") from error
