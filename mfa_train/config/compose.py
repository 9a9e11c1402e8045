"""Hydra composes configs/ and what is typed into one tree; here it becomes, once, the plain objects of the schema."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mfa_train.config.ladder_schema import LadderConfig
from mfa_train.config.schema import Config, ModelConfig
from mfa_train.config.secrets import require_no_secrets
from mfa_train.config.typed import first_line, flat, typed
from mfa_train.errors import ConfigError, did_you_mean

CONFIG_DIR = Path(__file__).resolve().parent.parent.parent / "configs"

LADDERS_MAPPINGS = ("sweep.ladder.variants.", "sweep.ladder.learning_rate_factors.")
ComposeError = (HydraException, OmegaConfBaseException)
"""What Hydra raises for what is typed; `explained` says it in one line."""

ADDED = ("match", "plan", "cluster", "sweep", "checkpoint", "guard", "data.name", "data.files", "data.text_key", "data.tokenizer_bytes",
         "data.shard_bytes", "data.tokenizer", "data.eos_token", "data.dataset", "data.dataset_config", "data.dataset_split",
         "data.held_out_files", "data.corpora", "data.weights", "data.lanes", "data.shuffle_tokens", "data.cache_dir",
         "data.cache_bytes", "data.document_mask", "cluster.launcher", "cluster.port", "cluster.environment", "cluster.shared",
         "cluster.time_limit", "cluster.template", "cluster.hostfile",
         "sweep.ladder", "checkpoint.at_steps")
"""Keys that a run made by an older version doesn't hold; their defaults say what it was."""

OmegaConf.register_new_resolver("times", lambda factor, value: int(factor * value), replace=True)
OmegaConf.register_new_resolver("scaled", lambda factor, value: float(f"{factor * value:.3g}"), replace=True)
OmegaConf.register_new_resolver("tokenizer_name", lambda tokenizer, vocab_size: _tokenizer_name(tokenizer, vocab_size),
                                replace=True)


def _tokenizer_name(tokenizer: str | None, vocab_size: int) -> str:
    """What the corpus's folder says of its tokens: the size of a vocabulary trained for it, or the tokenizer's file
    (`gpt2` of gpt2/tokenizer.json)."""
    if tokenizer is None:
        return str(vocab_size)
    file = PurePosixPath(tokenizer.split("?")[0])
    return file.parent.name if file.stem in ("tokenizer", "") and file.parent.name else file.stem


def from_hydra(tree: DictConfig) -> Config:
    """The composed tree as typed objects, interpolations resolved. Raises ConfigError."""
    try:
        node = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from error
    require_no_secrets(node)
    for key in ("steps", "tokens"):  # 1e9 is how people write a billion
        if isinstance(value := node["training"][key], float) and value.is_integer():
            node["training"][key] = int(value)
    return typed(Config, node)


def load(overrides: Sequence[str]) -> Config:
    """Composes configs/train.yaml with `overrides` as train.py would. Raises ConfigError."""
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return from_hydra(compose("train", overrides=list(overrides)))
    except HydraException as error:
        raise explained(error) from error
    except ValueError as error:  # Hydra's own for `=3` or `model=null`
        raise ConfigError(f"{error}: expected GROUP=CHOICE or KEY=VALUE, as attention=mla") from error


def default_attention(name: str, model: ModelConfig) -> dict[str, Any]:
    """The config node of attention=`name` for this model, nothing overridden. Raises ConfigError for an unknown
    name."""
    folder = CONFIG_DIR / "attention"
    if name not in (known := [path.stem for path in folder.glob("*.yaml")]):
        raise ConfigError(f"match.reference={name}: no such attention.{did_you_mean(name, known)}")
    node = OmegaConf.merge(OmegaConf.load(CONFIG_DIR / "attention_common.yaml"), OmegaConf.load(folder / f"{name}.yaml"))
    del node["defaults"]
    tree = OmegaConf.create({"attention": node, "model": dataclasses.asdict(model)})
    return OmegaConf.to_container(tree, resolve=True)["attention"]


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def of_run(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of the run in `folder`, with `overrides` of keys it holds. Raises ConfigError."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder}: no run here (config.yaml is missing); type the run's folder, as runs/mfa-nano")
    try:
        tree = OmegaConf.load(path)
        if missing := [key for key in ADDED if OmegaConf.select(tree, key) is None]:
            defaults = OmegaConf.create(dataclasses.asdict(load([])))
            for key in missing:
                OmegaConf.update(tree, key, OmegaConf.select(defaults, key))
        OmegaConf.set_struct(tree, True)
        typed(Config, OmegaConf.to_container(tree))
    except Exception as error:  # YAML's own errors, and those of a file that is no config
        raise ConfigError(f"{path}: not a run's config ({first_line(error)}); remove or rename {folder}") from error
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        try:
            OmegaConf.update(tree, override.key_or_group, override.value())
        except OmegaConfBaseException:
            known = flat(OmegaConf.to_container(tree))
            raise ConfigError(f"{override.key_or_group}: no such key.{did_you_mean(override.key_or_group, known)}") from None
    return typed(Config, OmegaConf.to_container(tree))


def differences(old: dict, new: dict) -> list[str]:
    """`key: old -> new` for each value that differs between two configs as plain mappings, keys dotted."""
    before, after = flat(old), flat(new)
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in sorted(before | after)
            if before.get(key) != after.get(key)]


def explained(error: HydraException) -> ConfigError:
    """What Hydra could not compose, in one line with the nearest key or choice that exists."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return ConfigError(f"{group}={choice}: no such choice.{did_you_mean(choice, error.options)}")
    named = re.search(r"Could not override '([^']+)'", str(error))
    if named:
        key, known = named[1], _all_keys()
        if f"{key}.".startswith(LADDERS_MAPPINGS):
            return ConfigError(f"{key}: it gains a key by this: type +{key}=…")
        if key in known:
            return ConfigError(f"{key}: no such key with these choices; it belongs to another {key.split('.')[0]}")
        return ConfigError(f"{key}: no such key.{did_you_mean(key, known)}")
    if "Ambiguous value" in str(error):
        return ConfigError(f"{first_line(error)}: several values are a sweep; type -m as well, as python train.py -m …")
    if isinstance(error, OverrideParseException) and "=" in error.override:
        given = error.override.replace("\n", "\\n")
        return ConfigError(f"{given}: cannot be read: a value with spaces or signs stands in quotes of its own, as "
                           "'sample.prompt=\"a (b); c\"'")
    return ConfigError(f"{first_line(error)}: expected GROUP=CHOICE or KEY=VALUE, as attention=mla training.steps=100")


def _all_keys() -> list[str]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        tree = OmegaConf.to_container(compose("train"), resolve=False)
    groups = [folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir()]
    return sorted({*flat(tree), *groups, *(f"sweep.ladder.{field.name}" for field in dataclasses.fields(LadderConfig))})
