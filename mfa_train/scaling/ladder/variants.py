"""The variants of a ladder at one size, each at its shares of the KV cache of the size's MHA."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mfa_train import config as configs
from mfa_train.budget.match import matched
from mfa_train.config import Config, RungConfig
from mfa_train.config.budget_schema import entry_bytes
from mfa_train.errors import ConfigError
from mfa_train.scaling.ladder.request import Request


@dataclass(frozen=True)
class ShapedVariant:
    """A variant of which `match` has found that it has a shape."""

    name: str
    share: float | None
    """Of MHA's KV cache; None where the variant has the cache that its own keys give it."""
    config: Config
    """Before matching."""
    overrides: list[str]


def shaped_variants(request: Request, rung: RungConfig, say: Callable[[str], None]) -> Iterator[ShapedVariant]:
    """Every variant and share of the rung that has a shape; of the others `say` is told why not."""
    for name, keys in _chosen(request).items():
        attention, shares = keys.pop("attention", name), keys.pop("kv_shares", request.ladder.kv_shares)
        if shares and "sweep.ladder.kv_shares" in request.typed:
            shares = request.ladder.kv_shares
        for share in shares or [None]:
            overrides = [
                f"model={rung.model}",
                f"attention={attention}",
                *(f"{key}={configs.written(value, literally=False)}" for key, value in keys.items()),
            ]
            config = configs.load([*request.overrides, "sweep.ladder=null", *overrides])
            if share is not None:
                config.match.kv_bytes_per_token = int(_bytes_per_token_of_mha(config) * share)
                overrides.append(f"match.kv_bytes_per_token={config.match.kv_bytes_per_token}")
            try:
                matched(config)
            except ConfigError as error:
                say(f"left out: {name} of model={rung.model}: {error}")
                continue
            yield ShapedVariant(name, share, config, overrides)


def _chosen(request: Request) -> dict[str, dict]:
    """Overrides of each variant with the attention that was typed, or of all. Raises ConfigError where none has it."""
    attention = request.chosen("attention")
    chosen = {
        name: dict(keys)
        for name, keys in request.ladder.variants.items()
        if attention in (None, keys.get("attention", name))
    }
    if not chosen:
        raise ConfigError(
            f"attention={attention}: no variant of the ladder has it; it has {', '.join(request.ladder.variants)}"
        )
    return chosen


def _bytes_per_token_of_mha(config: Config) -> int:
    model = config.model
    values = 2 * model.num_attention_heads * model.head_dim
    return model.num_hidden_layers * entry_bytes(values, 2, config.plan.cache_dtype)
