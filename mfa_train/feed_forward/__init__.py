"""What a layer does with each token by itself, behind the attention: one file a kind.

A kind is a module of family/ named as its choice in configs/feed_forward/, with a subclass of `FeedForward` (base.py).
Nothing else knows the kinds.

    base.py        the contract
    family/        dense.py experts.py
    router.py      which experts a token goes to, and by what weights
    balancing.py   what keeps the experts equally busy: losses, and the bias of the selection
    products.py    the experts' matrix products, and how tokens get there and back
"""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mfa_train.config.family import Family
from mfa_train.errors import ConfigError
from mfa_train.feed_forward.base import FeedForward, FeedForwardConfig, Routed
from mfa_train.parallel.groups import ALONE, ExpertGroup

if TYPE_CHECKING:
    from mfa_train.config import ModelConfig

__all__ = ["FeedForward", "FeedForwardConfig", "Routed", "feed_forward_class", "feed_forward_config"]

FAMILY = Family(FeedForward, f"{__name__}.family", "model.feed_forward")  # type: ignore[type-abstract]


def feed_forward_class(name: str) -> type[FeedForward]:
    """The kind's class. Raises ConfigError for a name without a file."""
    return FAMILY.class_of(name)


def feed_forward_config(node: Mapping[str, Any]) -> FeedForwardConfig:
    """The config node `model.feed_forward`, typed and checked by its kind. Raises ConfigError."""
    return FAMILY.config_of(node)


def feed_forward_of(model: "ModelConfig", layer: int, group: ExpertGroup = ALONE) -> FeedForward:
    """What stands in the `layer` (from 0) of a model, where the ranks of `group` share experts out. Raises
    ConfigError."""
    config = feed_forward_config(model.feed_forward)
    return feed_forward_class(config.in_layer(layer)).of(model.hidden_size, model.intermediate_size, config, group)


def layers_by_kind(model: "ModelConfig") -> dict[int, int]:
    """The first layer (from 0) of each kind that a model has, and how many there are of that. Raises ConfigError."""
    config = feed_forward_config(model.feed_forward)
    kinds = [config.in_layer(layer) for layer in range(model.num_hidden_layers)]
    if config.name not in kinds:
        raise ConfigError(
            f"model.feed_forward.name={config.name}: none of the {model.num_hidden_layers} layers would have it: type "
            f"a smaller model.feed_forward.first_k_dense_replace, or feed_forward={kinds[0]}"
        )
    return {kinds.index(kind): count for kind, count in Counter(kinds).items()}
