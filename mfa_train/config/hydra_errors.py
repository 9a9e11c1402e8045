"""What Hydra and OmegaConf raise for what is typed, in one line with the nearest thing that exists."""

import functools
import re
import unicodedata
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mfa_train.config.choices import of_other_choices
from mfa_train.config.deepspeed_schema import require_deepspeed
from mfa_train.config.ladder_schema import LadderConfig
from mfa_train.config.overrides import CONFIG_DIR
from mfa_train.config.schema import Config
from mfa_train.config.typed import leaves
from mfa_train.config.yaml_file import read_yaml
from mfa_train.errors import ConfigError, did_you_mean
from mfa_train.words import first_line

ComposeError = (HydraException, OmegaConfBaseException)
"""What Hydra raises for what is typed; `explained` says it in one line."""
LADDERS_MAPPINGS = ("sweep.ladder.variants.", "sweep.ladder.learning_rate_factors.")
FORM = "expected GROUP=CHOICE or KEY=VALUE, as attention=mla training.steps=100"


def explained(error: Exception) -> ConfigError:
    """What Hydra could not compose, in one line with the nearest key or choice that exists."""
    if isinstance(error.__cause__, ConfigError):
        return error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return ConfigError(f"{group}={choice}: no such choice.{did_you_mean(choice, error.options)}")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return ConfigError(f"{error.missing_cfg_file}: no such file in configs/")
    if (
        isinstance(error, ConfigCompositionException)
        and not str(error)
        and isinstance(error.__cause__, OmegaConfBaseException)
    ):
        in_file = error.__cause__
        key = f"{in_file.full_key}: " if in_file.full_key else ""
        return ConfigError(f"{key}{first_line(in_file)}{_advice(in_file)}")
    if named := re.search(r"Could not override '([^']+)'", str(error)):
        because = error.__cause__  # tells the key within a mapping that was typed
        if isinstance(because, OmegaConfBaseException) and because.full_key:
            typed = re.search(rf"use \+({re.escape(because.full_key)}=.*)", str(error))
            if because.full_key.startswith("deepspeed."):
                appended = re.search(rf"use \+({re.escape(because.full_key)}.*)", str(error))
                return _without_plus(appended[1] if appended else f"{because.full_key}=…")
            return _no_such_key(because.full_key, typed[1] if typed else because.full_key, because.parent_node)
        return _no_such_key(named[1], named[1], None)
    if merging := re.match("Error merging override (.*)", str(error), re.DOTALL):
        because = error.__cause__ or error
        return ConfigError(f"{merging[1]}: {first_line(because)}{_advice(because)}")
    if there := re.search(r"already at '([^']+)'\.\nEither remove \+ prefix: '(.*?)'\nOr add", str(error), re.DOTALL):
        instead = "+deepspeed.KEY=VALUE" if there[1] == "deepspeed" else there[2]
        return ConfigError(f"+{there[2]}: {there[1]} is there already: type {instead}")
    if "raised while composing config" in str(error):
        lines = str(error).splitlines()
        return ConfigError(
            f"{lines[0].split(':')[0].removeprefix('In ')}: {lines[1] if len(lines) > 1 else 'cannot be composed'}"
        )
    if "Ambiguous value" in str(error):
        return ConfigError(
            f"{first_line(error).removesuffix('.')}: several values are a sweep; type -m as well, as python train.py "
            "-m …"
        )
    if isinstance(error, OverrideParseException) and "=" in error.override:
        if odd := _not_plain(error.override):
            return ConfigError(
                f"{error.override}: cannot be read: {odd!r} ({unicodedata.name(odd, 'no name')}) is none of the plain "
                "letters, digits and signs that keys and numbers are written in"
            )
        return ConfigError(
            f"{error.override}: cannot be read: a value with spaces or signs stands in quotes of its own, as "
            "'sample.prompt=\"a (b); c\"'"
        )
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return ConfigError(f"{error.full_key}: {first_line(error)}{_advice(error)}")
    return ConfigError(f"{first_line(error).rstrip('.')}: {FORM}")


def _no_such_key(key: str, given: str, node: Any) -> ConfigError:
    """Of `given`, KEY=VALUE or KEY, which Hydra did not find in `node`."""
    known = all_keys()
    if f"{key}.".startswith(LADDERS_MAPPINGS):
        return ConfigError(f"{key}: it gains a key by this: type +{key}=…")
    if isinstance(node, DictConfig) and (told := of_other_choices(given, key, str(node.get("name")))):
        return told
    return ConfigError(f"{key}: no such key.{did_you_mean(key, known)}")


def _without_plus(given: str) -> ConfigError:
    """Of `given`, deepspeed.KEY=VALUE, which needs a + where it may be given at all."""
    key, _, value = given.partition("=")
    node: Any = value
    for name in reversed(key.split(".")[1:]):
        node = {name: node}
    try:
        require_deepspeed(node)
    except ConfigError as refused:
        return refused
    return ConfigError(f"{given}: it gains a key by this: type +{given}")


def _not_plain(override: str) -> str | None:
    """The first character beyond ASCII that no quotes would help: of the key, or of a value without spaces or signs."""
    key, _, value = override.partition("=")
    looked_at = key if set(value) & set(" ()[]{}'\"\\,") else override
    return next((character for character in looked_at if not character.isascii()), None)


def _advice(error: BaseException) -> str:
    """On ${…} that stands for nothing."""
    if "nterpolation" in str(error) or "GrammarParse" in type(error).__name__:
        return "; ${KEY} stands for another key's value: type \\${ for the signs themselves"
    return ""


@functools.cache
def all_keys() -> tuple[str, ...]:
    """Of configs/: the schema's, those of every attention, and the groups."""
    found = {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()}
    found.update(key for key, _ in (*leaves(Config), *leaves(LadderConfig, "sweep.ladder.")))
    for path in (CONFIG_DIR / "attention_common.yaml", *(CONFIG_DIR / "attention").glob("*.yaml")):
        found.update(f"attention.{key}" for key in read_yaml(path) if key != "defaults")
    for path in (CONFIG_DIR / "feed_forward").glob("*.yaml"):
        found.update(f"model.feed_forward.{key}" for key in read_yaml(path))
    return tuple(sorted(found))
