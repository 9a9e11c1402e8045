"""Hydra composes configs/ and what is typed into one tree; here it becomes, once, the plain objects of the schema."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mfa_train.config.choices import of_other_choices
from mfa_train.config.composition import FileConfigSource, composed
from mfa_train.config.hydra_errors import FORM, ComposeError, explained
from mfa_train.config.launch_schema import SweepConfig
from mfa_train.config.model_schema import ModelConfig
from mfa_train.config.overrides import CONFIG_DIR, WORD, as_meant, holds_choice, key_of, written
from mfa_train.config.schema import Config
from mfa_train.config.secrets import require_no_secrets
from mfa_train.config.typed import converted, flat, typed
from mfa_train.config.yaml_file import line_of, read_yaml, shown
from mfa_train.errors import ConfigError, did_you_mean
from mfa_train.words import first_line

GLOBAL = ("experiment", "local")
"""Groups whose files set keys of other groups, as their first line must say."""

OmegaConf.register_new_resolver("times", lambda factor, value: int(factor * value), replace=True)
OmegaConf.register_new_resolver("scaled", lambda factor, value: float(f"{factor * value:.3g}"), replace=True)
OmegaConf.register_new_resolver("below", lambda most, value: value if value < most else None, replace=True)
OmegaConf.register_new_resolver(
    "tokenizer_name", lambda tokenizer, vocab_size: _tokenizer_name(tokenizer, vocab_size), replace=True
)


def _tokenizer_name(tokenizer: str | None, vocab_size: int) -> str:
    """What the corpus's folder says of its tokens: the size of a vocabulary trained for it, or the tokenizer's file
    (`gpt2` of gpt2/tokenizer.json)."""
    if tokenizer is None:
        return str(vocab_size)
    file = PurePosixPath(tokenizer.split("?")[0])
    return file.parent.name if file.stem in ("tokenizer", "") and file.parent.name else file.stem


def load(overrides: Sequence[str]) -> Config:
    """Composes configs/train.yaml with `overrides` as train.py would. Raises ConfigError."""
    words = as_meant(overrides)
    try:
        tree = composed(words, CONFIG_DIR)
    except ComposeError as error:
        raise _with_place(explained(error), overrides) from error
    except (ValueError, TypeError, AttributeError, KeyError, AssertionError, RecursionError, OSError) as error:
        # Hydra's own, as for `=3` or `model=null`
        odd = next((f"{word}: " for word in words if not key_of(word) or holds_choice(key_of(word))), "")
        told = (
            "leads back to itself" if isinstance(error, RecursionError) else f"{first_line(error).rstrip('.')}: {FORM}"
        )
        raise ConfigError(f"{odd}{told}") from error
    try:
        config = from_hydra(tree, words)
        _require_own_keys("attention", config.attention)
        _require_own_keys("model.feed_forward", config.model.feed_forward)
    except ConfigError as error:
        raise _with_place(_with_advice(error, overrides), overrides) from error
    return config


def from_hydra(tree: DictConfig, words: Sequence[str] = ()) -> Config:
    """The composed tree as typed objects, interpolations resolved; `words` were typed. Raises ConfigError."""
    node = _plain(tree, resolve=False)
    for group in GLOBAL:
        if node.pop(group, None):
            raise ConfigError(_without_header(group, words))
    ours, of_sweep = ({field.name for field in dataclasses.fields(one)} for one in (Config, SweepConfig))
    if isinstance(node.get("sweep"), dict) and (ours - of_sweep) & set(node["sweep"]):
        raise ConfigError(_without_header("sweep", words))
    as_written = converted(Config, node | {"attention": _attention(node.get("attention"))}, unresolved=True)
    resolvable = OmegaConf.create(as_written)
    typed_so = {key_of(word) for word in words if re.fullmatch(r"[^=]*=(['\"])\?\?\?\1", word)}
    if unset := sorted({key for key, value in flat(as_written).items() if value == "???"} - typed_so):
        raise ConfigError(f"{unset[0]} has no default here: type {unset[0]}=…")
    try:
        resolved = _plain(resolvable, resolve=True)
    except ComposeError as error:
        raise explained(error) from error
    except RecursionError:
        raise ConfigError("keys stand for each other's values in a circle: type a value for one of them") from None
    require_no_secrets(resolved)
    try:
        return typed(Config, resolved)
    except ConfigError as error:
        raise ConfigError(_as_typed(str(error), flat(as_written))) from error


def _plain(tree: DictConfig, resolve: bool) -> dict[str, Any]:
    """As mappings, lists and values; with `resolve` what ${...} stands for in its place."""
    node = OmegaConf.to_container(tree, resolve=resolve)
    return {str(key): value for key, value in node.items()} if isinstance(node, dict) else {}


def _attention(node: Any) -> Any:
    """Whole numbers as whole numbers (1e2) where the variant's defaults are none with a fraction: the node has no
    schema here."""
    if not isinstance(node, Mapping):
        return node
    if "name" not in node:
        raise ConfigError("attention.name is missing")
    fractions = {
        key for key, value in read_yaml(CONFIG_DIR / "attention_common.yaml").items() if isinstance(value, float)
    }
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() and key not in fractions else value
        for key, value in node.items()
    }


def _as_typed(told: str, as_written: dict[str, Any]) -> str:
    """An error of a key whose value is another key's, as model.vocab_size is data.vocab_size, as one of that key."""
    while found := re.match(r"[\w.]+", told):
        source = re.fullmatch(r"\$\{([\w.]+)\}", str(as_written.get(found[0])))
        if not source or source[1] not in as_written:
            break
        told = source[1] + told[found.end() :]
    return told


def _require_own_keys(where: str, node: Mapping[str, Any]) -> None:
    """Raises ConfigError where a file sets a key of another choice than the chosen one in the group's node `where`:
    Hydra finds those that are typed."""
    group, chosen = where.rpartition(".")[2], node.get("name")
    own, common = CONFIG_DIR / group / f"{chosen}.yaml", CONFIG_DIR / f"{group}_common.yaml"
    if not own.is_file():
        return  # told where its class is looked for
    known = read_yaml(own).keys() | (read_yaml(common).keys() if common.is_file() else set())
    for key in sorted(node.keys() - known):
        if told := of_other_choices(f"{where}.{key}={written(node[key])}", f"{where}.{key}", str(chosen)):
            raise told


def _with_advice(error: ConfigError, overrides: Sequence[str]) -> ConfigError:
    """What text with commas may have been meant as."""
    for key, value in ((found["key"], found["value"]) for found in map(WORD.fullmatch, overrides) if found):
        if "," in value and str(error).startswith(f"{key}={value}: expected one of"):
            return ConfigError(f"{error}; several values are a sweep: type -m as well")
    return error


def _with_place(error: ConfigError, overrides: Sequence[str]) -> ConfigError:
    """With the file and the line of a key that nobody typed: a recipe's, or a machine's own."""
    key = re.split(r"[^\w.]", str(error), maxsplit=1)[0]
    if any(
        key == typed or (key.startswith(f"{typed}.") and not holds_choice(typed)) for typed in map(key_of, overrides)
    ):
        return error
    for path, everywhere in reversed(FileConfigSource.opened):
        group = [] if everywhere else list(path.relative_to(CONFIG_DIR).parent.parts)
        keys = key.split(".")
        told_here = everywhere or (group and "no such key" in str(error))
        if told_here and keys[: len(group)] == group and (line := line_of(path, keys[len(group) :])):
            return ConfigError(f"{shown(path)}, line {line}: {error}")
    return error


def _without_header(group: str, words: Sequence[str]) -> str:
    chosen = [word.partition("=")[2].strip("'\"") for word in words if key_of(word) == group]
    file = f"configs/{group}/{chosen[-1] if chosen else 'default'}.yaml"
    return f"{file}: its first line must be # @package _global_, as it sets keys of other groups"


def default_attention(name: str, model: ModelConfig) -> dict[str, Any]:
    """The config node of attention=`name` for this model, nothing overridden. Raises ConfigError for an unknown
    name."""
    folder = CONFIG_DIR / "attention"
    if name not in (known := [path.stem for path in folder.glob("*.yaml")]):
        raise ConfigError(f"match.reference={name}: no such attention.{did_you_mean(name, known)}")
    node = read_yaml(CONFIG_DIR / "attention_common.yaml") | read_yaml(folder / f"{name}.yaml")
    del node["defaults"]
    tree = OmegaConf.create({"attention": node, "model": dataclasses.asdict(model)})
    return _plain(tree, resolve=True)["attention"]


def default_feed_forward(name: str) -> dict[str, Any]:
    """The config node of feed_forward=`name`, which is one of its choices, nothing overridden."""
    return read_yaml(CONFIG_DIR / "feed_forward" / f"{name}.yaml")


def differences(old: dict, new: dict) -> list[str]:
    """`key: old -> new` for each value that differs between two configs as plain mappings, keys dotted."""
    before, after = flat(old), flat(new)
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before | after)
        if before.get(key) != after.get(key)
    ]
