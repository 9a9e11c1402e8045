"""The attention and the feed-forward of the bundle, which stand in the place of these."""

from collections.abc import Mapping
from typing import Any

from mfa_train.attention.base import Attention, AttentionConfig
from mfa_train.attention.family.mha import MultiHeadAttention as Variant
from mfa_train.attention.rope import RopeScaling
from mfa_train.export.remote.code.configuration_mfa_train import MfaTrainConfig
from mfa_train.feed_forward.base import FeedForward
from mfa_train.feed_forward.family.dense import Dense
from mfa_train.feed_forward.family.dense import Dense as Kind
from mfa_train.parallel.groups import ALONE, ExpertGroup


def attention_class(name: str) -> type[Attention]:
    """The one that this file has."""
    return Variant


def attention_config(node: Mapping[str, Any]) -> AttentionConfig:
    """config.json's `attention`, typed."""
    scaling = node["rope_scaling"]
    return Variant.Config(**{**node, "rope_scaling": None if scaling is None else RopeScaling(**scaling)})


def feed_forward_of(config: MfaTrainConfig, layer: int, group: ExpertGroup = ALONE) -> FeedForward:
    """What stands in the `layer` (from 0) of config.json's model."""
    kind = Kind.Config(**config.feed_forward)
    made = Kind if kind.in_layer(layer) == kind.name else Dense
    return made.of(config.hidden_size, config.intermediate_size, kind, group)
