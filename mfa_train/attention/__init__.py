"""What a token leaves in the KV cache, one file a variant.

A variant is a module of family/ named as its choice in configs/attention/, with a subclass of `Attention` (base.py)
that defines `query`, `cache_entry` and `keys_values`, and a dataclass `Config` of its keys. Nothing else knows the
variants.

    base.py        the contract
    family/        mha.py mqa.py gqa.py mla.py mfa.py mfa_kr.py tpa.py …
    latent.py      norms of latents, which several variants have
    rope.py        rotary positions
    cache.py       the entries of past tokens, while decoding
    cache_types.py the types that it may hold them in
    kernels/       what multiplies queries, keys and values
    documents.py   the documents within a batch
"""

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mfa_train.attention.base import Attention, AttentionConfig, Capacity
from mfa_train.config import choices_of, of_other_choices, typed, written
from mfa_train.errors import ConfigError, did_you_mean

__all__ = ["Attention", "AttentionConfig", "Capacity", "attention_class", "attention_config", "variants"]


def variants() -> list[str]:
    """The choices of `attention=`."""
    return choices_of("attention")


def attention_class(name: str) -> type[Attention]:
    """The variant's class. Raises ConfigError for a name without a file."""
    if name not in variants():
        raise ConfigError(f"attention.name={name}: no such attention.{did_you_mean(name, variants())}")
    module = import_module(f"mfa_train.attention.family.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Attention) and value.__module__ == module.__name__
    )


def attention_config(node: Mapping[str, Any]) -> AttentionConfig:
    """The config node `attention`, typed and checked by its variant. Raises ConfigError."""
    schema = attention_class(node["name"]).Config
    for key in sorted(node.keys() - {field.name for field in dataclasses.fields(schema)}):
        if told := of_other_choices(f"attention.{key}={written(node[key])}", f"attention.{key}", node["name"]):
            raise told
    return typed(schema, node, "attention")
