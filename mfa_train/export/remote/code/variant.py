"""The attention of the bundle, which stands in the place of this one."""

from collections.abc import Mapping
from typing import Any

from mfa_train.attention.base import Attention, AttentionConfig
from mfa_train.attention.family.mha import MultiHeadAttention as Variant
from mfa_train.attention.rope import RopeScaling


def attention_class(name: str) -> type[Attention]:
    """The one that this file has."""
    return Variant


def attention_config(node: Mapping[str, Any]) -> AttentionConfig:
    """config.json's `attention`, typed."""
    scaling = node["rope_scaling"]
    return Variant.Config(**{**node, "rope_scaling": None if scaling is None else RopeScaling(**scaling)})
