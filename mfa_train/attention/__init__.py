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

from collections.abc import Mapping
from typing import Any

from mfa_train.attention.base import Attention, AttentionConfig, Capacity
from mfa_train.config.family import Family

__all__ = ["Attention", "AttentionConfig", "Capacity", "attention_class", "attention_config", "variants"]

FAMILY = Family(Attention, f"{__name__}.family", "attention")  # type: ignore[type-abstract]


def variants() -> list[str]:
    """The choices of `attention=`."""
    return FAMILY.choices()


def attention_class(name: str) -> type[Attention]:
    """The variant's class. Raises ConfigError for a name without a file."""
    return FAMILY.class_of(name)


def attention_config(node: Mapping[str, Any]) -> AttentionConfig:
    """The config node `attention`, typed and checked by its variant. Raises ConfigError."""
    return FAMILY.config_of(node)
