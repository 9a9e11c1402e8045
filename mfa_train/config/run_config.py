"""A run's config.yaml: the whole truth of that run, as plain data.

Nothing in it is looked up when it is read, neither in configs/ (a machine's habits in configs/local are no part of a
run that is over) nor in the environment: what looks like ${KEY} is text. A null is a null. A key that it lacks, as it
was made before that key existed, means what held then: `BEFORE`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mfa_train.archive import AnyPath
from mfa_train.config import yaml_file
from mfa_train.config.hydra_errors import explained
from mfa_train.config.once import OnceYesOrNo
from mfa_train.config.overrides import as_meant, holds_text, literal
from mfa_train.config.requirements import MOST_SEED, require_whole
from mfa_train.config.schema import Config
from mfa_train.config.typed import as_it_was, flat, leaves
from mfa_train.errors import ConfigError, did_you_mean

BEFORE: dict[str, Any] = {
    "init_from": None,
    "deepspeed": {},
    "attention.output_gate": "none",
    "model.initialization.draw": 1,
    "model.feed_forward.name": "dense",
    "parallel.experts": 1,
    "parallel.context": 1,
    "parallel.context_by": "auto",
    "training.ema": None,
    "training.mlp_tile_tokens": None,
    "training.sequence_schedule": None,
    "data.files": [],
    "data.held_out_files": [],
    "data.text_key": "text",
    "data.dataset": None,
    "data.dataset_config": None,
    "data.dataset_split": "train",
    "data.tokenizer": None,
    "data.eos_token": None,
    "data.tokenizer_bytes": 2**30,
    "data.shard_bytes": 2**28,
    "data.corpora": None,
    "data.weights": None,
    "data.lanes": 64,
    "data.shuffle_tokens": 2**24,
    "data.cache_bytes": 2**36,
    "data.document_mask": False,
    "checkpoint.every_steps": 100,
    "checkpoint.every_minutes": None,
    "checkpoint.keep_last": 2,
    "checkpoint.keep_every": None,
    "checkpoint.at_steps": [],
    "checkpoint.background": True,
    "checkpoint.upload": None,
    "guard.nonfinite": "stop",
    "guard.spikes": "log",
    "guard.spike_factor": 6.0,
    "guard.spike_window": 128,
    "guard.max_skips": 10,
    "guard.max_rollbacks": 3,
    "guard.hang_seconds": 1800.0,
    "profile.step": None,
    "profile.steps": 3,
    "profile.ranks": [0],
    "match.kv_bytes_per_token": None,
    "match.params": None,
    "match.reference": None,
    "match.by": "intermediate_size",
    "match.counted": "total",
    "match.multiple_of": 8,
    "match.mha": "reference",
    "plan.cache_dtype": "bf16",
    "plan.mfu": None,
    "plan.decode_counting": "exact",
    "plan.check": True,
    "cluster.launcher": "local",
    "cluster.device": "auto",
    "cluster.nodes": 1,
    "cluster.devices_per_node": 1,
    "cluster.price_per_device_hour": None,
    "cluster.network_gbits": None,
    "cluster.port": None,
    "cluster.environment": None,
    "cluster.shared": [],
    "cluster.time_limit": None,
    "cluster.template": None,
    "cluster.max_restarts": 0,
    "cluster.hostfile": None,
    "sweep.over": {},
    "sweep.ladder": None,
    "sweep.parallel": None,
    "sweep.retries": 0,
    "cache.dtype": "auto",
    "evaluation.tasks": [],
    "evaluation.num_fewshot": None,
    "evaluation.limit": None,
    "evaluation.every_steps": None,
    "evaluation.batch_tokens": 2**13,
    "evaluation.by_position": False,
}
"""What held before these keys existed. A new key comes with a line here; the lines never change."""
BEFORE_OF_ATTENTION: dict[str, dict[str, Any]] = {
    "mla": {"latent_scale": False, "latent_norm_eps": 1e-6},
    "mfa": {"latent_scale": False, "latent_norm_eps": 1e-6},
    "mfa_kr": {"latent_scale": False, "latent_norm_eps": 1e-6, "value": "gated"},
}
"""The same of keys that some attentions alone have, by its name."""
DERIVED_BEFORE = {
    "data.name": lambda tree: PurePath(tree["data"]["path"]).name.removesuffix(f"-{tree['data']['vocab_size']}"),
    "data.cache_dir": lambda tree: f"{tree['data_dir']}/cache",
    "evaluation.tasks_dir": lambda tree: f"{tree['data_dir']}/tasks",
    "plan.context": lambda tree: tree["training"]["sequence_length"],
}


OVER = ("optimizer", "checkpoint", "guard", "profile", "cluster", "sweep", "tracking", "sample", "cache", "evaluation")
"""What is over when a run is read. Its values may be such as no start takes any more; the rest says what the weights
are."""


def to_yaml(config: Config) -> str:
    """As a run's config.yaml holds it."""
    return yaml_file.to_yaml(dataclasses.asdict(config))


def plain(folder: AnyPath) -> dict[str, Any]:
    """The config of the run in `folder` as it stands there, with what held before the keys that it lacks; not held
    against the schema. Raises ConfigError."""
    if not (tree := yaml_file.read_yaml(folder / "config.yaml")):
        raise ConfigError("config.yaml: no keys with values")
    return completed(tree)


def of_run(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of the run in `folder`, with `overrides` of keys it holds. Raises ConfigError."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder}: no run here (config.yaml is missing); type the run's folder, as runs/mfa-nano")
    try:
        tree = plain(folder)
        config = as_it_was(Config, tree, OVER)
    except ConfigError as error:
        raise ConfigError(f"{path}: not a run's config ({error}); correct it, or rename {folder}") from error
    typed_keys = []
    for key, value in _parsed(overrides):
        known = flat(tree)
        if key not in known:
            raise ConfigError(f"{key}: no such key.{did_you_mean(key, known)}")
        *groups, last = key.split(".")
        node = tree
        for group in groups:
            node = node[group]
        node[last] = value
        typed_keys.append(key)
    if not typed_keys:
        return config
    config = as_it_was(
        Config, tree, {group for group in OVER if not any(key.startswith(f"{group}.") for key in typed_keys)}
    )
    if "seed" in typed_keys:
        require_whole("seed", config.seed, 0, MOST_SEED)
    return config


def completed(tree: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the keys that its version didn't know."""
    of_attention = BEFORE_OF_ATTENTION.get(_attention_name(tree), {})
    before = BEFORE | DERIVED_BEFORE | {f"attention.{key}": value for key, value in of_attention.items()}
    for key, value in before.items():
        *groups, name = key.split(".")
        node = tree
        for depth, group in enumerate(groups, 1):
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{'.'.join(groups[:depth])}={node}: expected keys with values")
        if name not in node:
            try:
                node[name] = value(tree) if callable(value) else value
            except (KeyError, TypeError):  # of a file that lacks what was always there, which `typed` tells
                pass
    return _in_todays_words(tree)


def _in_todays_words(tree: dict[str, Any]) -> dict[str, Any]:
    """With a word where the run's version had true or false."""
    for key, kind in leaves(Config):
        for once in getattr(kind, "__metadata__", ()):
            *groups, last = key.split(".")
            node: Any = tree
            for group in groups:
                node = node.get(group) if isinstance(node, dict) else None
            if isinstance(once, OnceYesOrNo) and isinstance(node, dict) and last in node:
                node[last] = once.word(node[last])
    return tree


def _attention_name(tree: dict[str, Any]) -> str:
    node = tree.get("attention")
    return str(node.get("name")) if isinstance(node, dict) else ""


def _parsed(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    """Keys and values. There is no composed tree that ${KEY} could stand for a key of: it is text."""
    try:
        parsed = OverridesParser.create().parse_overrides(as_meant(overrides))
    except HydraException as error:
        raise explained(error) from error
    found = []
    for override in parsed:
        key = override.key_or_group
        if override.is_sweep_override() or override.is_delete():
            raise ConfigError(f"{override.input_line}: expected one value, as KEY=VALUE")
        value = override.value()
        found.append((key, literal(value) if holds_text(key) and isinstance(value, str) else value))
    return found
