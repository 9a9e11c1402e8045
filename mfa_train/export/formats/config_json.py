"""A config.json of others, key by key: each of its kind, and what has no counterpart here refused by its name.

Keys that change nothing of what the weights compute (token ids, dropout, how weights once started) are passed over.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mfa_train.attention import attention_config
from mfa_train.attention.rope import RopeScaling
from mfa_train.config import typed
from mfa_train.data.fields import shown
from mfa_train.errors import ConfigError
from mfa_train.feed_forward import feed_forward_config

ROPE = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
"""Keys of rope_parameters by rope_type: those of `RopeScaling` that it has."""


class ConfigJson:
    """The `content` of a config.json. Every method raises ConfigError, naming the key."""

    def __init__(self, content: Mapping[str, Any]):
        self.content = content

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number; `default` where the key is missing or null."""
        value = default if self.content.get(key) is None else self.content[key]
        if type(value) is not int or not 0 < value < 2**31:
            raise self.refused(key, "a whole number above 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value: Any = default if self.content.get(key) is None else self.content[key]
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.refused(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.content.get(key, default)
        if type(value) is not bool:
            raise self.refused(key, "true or false")
        return value

    def require(self, key: str, *allowed: Any) -> None:
        """Raises where the key is there and none of `allowed`."""
        if self.content.get(key) is not None and self.content[key] not in allowed:
            raise self.refused(key, f"{' or '.join(map(str, allowed))}, as the models here have" if allowed else "none")

    def refused(self, key: str, expected: str) -> ConfigError:
        value = shown(self.content[key]) if key in self.content else "missing"
        return ConfigError(f"config.json: {key} is {value}, expected {expected}")

    def model(self) -> dict[str, Any]:
        """Keys of `model` that every form has."""
        self.require("hidden_act", "silu")
        self.require("attention_bias", False)
        self.require("mlp_bias", False)
        self.require("partial_rotary_factor", 1)
        self.require("quantization_config")
        if self.content.get("use_sliding_window", True):
            self.require("sliding_window")
        if (kinds := self.content.get("layer_types")) is not None and (
            not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
        ):
            raise self.refused("layer_types", "full_attention in every layer")
        sizes = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "max_position_embeddings")
        return {
            **{f"model.{key}": self.count(key) for key in sizes},
            "model.rms_norm_eps": self.number("rms_norm_eps"),
            "model.tie_word_embeddings": self.flag("tie_word_embeddings", False),
            "feed_forward": "dense",
        }

    @property
    def is_ours(self) -> bool:
        """Whether it has our own keys; mfa_train_NAME is of exports from before there was code beside them."""
        return str(self.content.get("model_type")).startswith("mfa_train")

    def ours(self) -> dict[str, Any]:
        """The keys of a config.json that `is_ours`."""
        node = self.content.get("attention")
        if not isinstance(node, dict) or not isinstance(node.get("name"), str):
            raise self.refused("attention", "its keys, as {name: mfa, …}")
        attention = dataclasses.asdict(attention_config(node))
        between = self.content.get("feed_forward", {"name": "dense"})  # exports from before it was a choice
        if not isinstance(between, dict) or not isinstance(between.get("name"), str):
            raise self.refused("feed_forward", "its keys, as {name: dense}")
        feed_forward = dataclasses.asdict(feed_forward_config(between))
        return {"attention": attention["name"], **self.model(), "feed_forward": feed_forward["name"]} | {
            **{f"model.feed_forward.{key}": value for key, value in feed_forward.items() if key != "name"},
            **{f"attention.{key}": value for key, value in attention.items() if key not in ("name", "kernel")},
        }

    def rope(self) -> dict[str, Any]:
        """Keys of `attention` that say how positions are rotated, as transformers 5 holds them or those before it."""
        given = {**_mapping(self.content.get("rope_scaling")), **_mapping(self.content.get("rope_parameters"))}
        rope = ConfigJson({"rope_theta": self.content.get("rope_theta"), **given})
        kind = given.get("rope_type", given.get("type", "default"))
        if not isinstance(kind, str) or kind not in ROPE:
            raise rope.refused("rope_type" if "rope_type" in given else "type", f"one of {', '.join(ROPE)}")
        rope.require("partial_rotary_factor", 1)
        rope.require("truncate", True)
        scaling = {"rope_type": kind, **{key: given[key] for key in ROPE[kind] if given.get(key) is not None}}
        if kind != "default":
            typed(RopeScaling, scaling, "rope_parameters")  # which checks it
        for key in given.keys() - {"rope_theta", "rope_type", "type", "partial_rotary_factor", "truncate", *ROPE[kind]}:
            usual = [0.1 * math.log(scaling["factor"]) + 1] if key == "attention_factor" and kind == "yarn" else []
            rope.require(key, *usual)
        return {
            "attention.rope_theta": rope.number("rope_theta", 10000.0),
            "attention.rope_scaling": None if kind == "default" else scaling,
        }


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping | None):
        raise ConfigError(f"config.json: rope_scaling or rope_parameters is {shown(value)}, expected keys with values")
    return dict(value or {})
