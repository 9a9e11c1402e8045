"""The key of the feed-forward that makes a variant's parameters equal, and what is counted as equal."""

from dataclasses import dataclass, replace

from mfa_train.budget.shape import Shape, measure
from mfa_train.config import Config, MatchConfig, ModelConfig
from mfa_train.errors import ConfigError


@dataclass(frozen=True)
class Lever:
    key: str
    """intermediate_size, or one of the feed-forward's own."""
    unit: int
    """Its values are multiples of that."""
    least: int

    @property
    def is_width(self) -> bool:
        return self.key != "n_routed_experts"

    def value(self, model: ModelConfig) -> int:
        return model.feed_forward.get(self.key) or getattr(model, self.key)

    def set_to(self, model: ModelConfig, value: int) -> ModelConfig:
        if self.key in model.feed_forward:
            return replace(model, feed_forward=model.feed_forward | {self.key: value})
        return replace(model, **{self.key: value})

    def params_of_one(self, match: MatchConfig, model: ModelConfig, attention: dict) -> float:
        """Parameters that one more of it adds."""
        more = self.set_to(model, self.value(model) + self.unit)
        added = counted(match, measure(more, attention)) - counted(match, measure(model, attention))
        return added / self.unit


def counted(match: MatchConfig, shape: Shape) -> int:
    """The parameters that `match` makes equal."""
    return shape.active_params if match.counted == "active" else shape.params


def lever_of(config: Config) -> Lever:
    """What `match.by` names; of heads, what takes what whole heads leave. Raises ConfigError for a key that this
    feed-forward lacks, or that changes none of the parameters asked for."""
    match, keys = config.match, config.model.feed_forward
    key = match.by
    if key == "num_attention_heads":
        key = "moe_intermediate_size" if "moe_intermediate_size" in keys else "intermediate_size"
    known = ["moe_intermediate_size", "n_routed_experts"] if "n_routed_experts" in keys else ["intermediate_size"]
    if key not in known:
        raise ConfigError(
            f"match.by={match.by}: it makes no parameters of model={config.model.name} equal, whose feed-forward is "
            f"{keys['name']}: type match.by={' or match.by='.join(known)}"
        )
    if key == "n_routed_experts":
        if match.counted == "active":
            raise ConfigError(
                "match.by=n_routed_experts: a token meets num_experts_per_tok of them, however many there are: type "
                "match.by=moe_intermediate_size, or match.counted=total"
            )
        groups = keys["n_group"]
        return Lever(key, groups, -(-keys["num_experts_per_tok"] // groups) * groups)
    return Lever(key, match.multiple_of, match.multiple_of)
