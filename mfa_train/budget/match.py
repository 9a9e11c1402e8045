"""Makes a comparison fair: shapes a variant to a KV-cache budget and a number of parameters.

    1. The variant's own key sets the cache: the largest of its `cache_choices` that is not above the budget. What has
       none keeps its cache, whatever the budget, and the report says so: MHA, the reference, unless `match.mha` names
       what it gives up, and FPBA.
    2. `match.by` sets the parameters, all or those that a token meets (`match.counted`): the feed-forward's width,
       or its experts', to the nearest multiple of `match.multiple_of`; the number of experts; or that of heads (as in
       arXiv 2412.19255), and the width only for what whole heads leave.

What was chosen is measured on the chosen model, not computed: a cache that can be set is never above the budget, the
parameters are within 0.5%.
"""

import bisect
import functools
from dataclasses import replace
from typing import Any, NoReturn

from mfa_train.attention import attention_config
from mfa_train.budget.lever import counted, lever_of
from mfa_train.budget.match_report import report_of
from mfa_train.budget.shape import cache_values, measure
from mfa_train.config import Config, ModelConfig, default_attention
from mfa_train.config.budget_schema import entry_bytes
from mfa_train.errors import ConfigError

TOLERANCE = 0.005
"""Of the parameters, to either side."""
MOST = 2**63
"""More parameters than any model has."""


class _Unmet(ConfigError):
    """What cannot be met, and changes of `match` that may meet it, the nearest first."""

    def __init__(self, told: str, *instead: dict[str, Any]):
        super().__init__(told)
        self.told, self.instead = told, instead


def matched(config: Config) -> tuple[Config, dict | None]:
    """The config with the shape that `match` asks for, and a report for plan.json; itself and None where it asks
    nothing. Matching the result again changes nothing.

    Raises ConfigError, with what is possible instead, where no shape meets the targets.
    """
    try:
        return _matched(config)
    except _Unmet as unmet:
        for change in unmet.instead:
            try:
                _matched(replace(config, match=replace(config.match, **change)))
            except ConfigError:
                continue
            values = " ".join(f"match.{key}={value}" for key, value in change.items() if value is not None)
            instead = " instead of match.reference" if "reference" in change and config.match.reference else ""
            raise ConfigError(f"{unmet.told}: type {values}{instead}") from None
        raise ConfigError(
            f"{unmet.told}; no other value of match.multiple_of or of the cache's budget helps: type other "
            f"parameters, another model=…, or match.{'params=null' if config.match.params else 'reference=null'}"
        ) from None


def _matched(config: Config) -> tuple[Config, dict | None]:
    """As `matched`; what may help is not tried yet."""
    match = config.match
    if not match.wanted:
        return config, None
    target = _target_params(config)
    if target is None or match.by != "num_attention_heads":
        _require_reachable(config)
    if target is None:
        model, attention = config.model, _with_cache(config, config.attention)
    elif match.by != "num_attention_heads":
        attention = _with_cache(config, config.attention)
        model = _with_width(config, config.model, attention, target)
    else:
        model, attention = _with_heads(config, target)
    shape = measure(model, attention)
    if target is not None and abs((got := counted(match, shape)) - target) > TOLERANCE * target:
        lever = lever_of(config)
        told = f"the nearest {lever.key}, {lever.value(model)}, misses {target:,} parameters by {got / target - 1:+.2%}"
        if not lever.is_width:
            raise _Unmet(f"match.by={match.by}: {told}", {"by": "moe_intermediate_size"})
        raise _Unmet(
            f"match.multiple_of={match.multiple_of}: {told}",
            *_smaller_units(match.multiple_of),
            {"params": got, "reference": None},
        )
    report = report_of(config, model, attention, shape, target, _role(config))
    # The target as a number: in this model the reference would have other parameters.
    resolved = replace(match, params=target, reference=None)
    return replace(config, model=model, attention=attention, match=resolved), report


def _target_params(config: Config) -> int | None:
    if config.match.reference is not None:
        return counted(config.match, measure(config.model, default_attention(config.match.reference, config.model)))
    return None if config.match.params is None else int(config.match.params)


def _bytes_per_token(config: Config, cached: tuple[int, int]) -> int:
    """Of `cached` (values, tensors) in every layer."""
    return config.model.num_hidden_layers * entry_bytes(*cached, config.plan.cache_dtype)


def _role(config: Config) -> str:
    """matched | reference | kept: what becomes of the variant's cache."""
    if _choices(config, config.attention):
        return "matched"
    return "reference" if attention_config(config.attention).is_reference else "kept"


def _choices(config: Config, attention: dict) -> list[dict[str, int]]:
    return list(attention_config(attention).choices_giving_up(config.match.mha))


def _with_cache(config: Config, attention: dict) -> dict:
    """`attention` with the largest cache that is not above the budget; itself without a budget or choices. Raises
    _Unmet."""
    budget, choices = config.match.kv_bytes_per_token, _choices(config, attention)
    if budget is None or not choices:
        return attention

    bytes_of = functools.partial(_bytes_of, config, attention)
    above = bisect.bisect_right(choices, budget, key=bytes_of)
    if above == 0:
        raise _Unmet(
            f"match.kv_bytes_per_token={budget}: no {attention['name']} of model={config.model.name} caches so little. "
            f"Nearest below: none; above: {bytes_of(choices[0])} ({_told(choices[0])})",
            *({"kv_bytes_per_token": bytes_of(choice)} for choice in _thinning(choices)),
        )
    return attention | choices[above - 1]


def next_above(config: Config, attention: dict) -> tuple[dict[str, int], int] | None:
    """The variant's smallest choice above the budget, and its bytes per token; None where there is none."""
    budget, choices = config.match.kv_bytes_per_token, _choices(config, attention)
    bytes_of = functools.partial(_bytes_of, config, attention)
    above = choices[bisect.bisect_right(choices, budget, key=bytes_of) :]
    return (above[0], bytes_of(above[0])) if above else None


def _bytes_of(config: Config, attention: dict, choice: dict) -> int:
    """Per token, of `attention` with the keys of `choice`."""
    return _bytes_per_token(config, cache_values(config.model, attention | choice))


def _require_reachable(config: Config) -> None:
    """Raises _Unmet where even the variant's largest cache is below the budget, and is not what the config had
    anyway."""
    budget, choices = config.match.kv_bytes_per_token, _choices(config, config.attention)
    if budget is None or not choices or config.attention | choices[-1] == config.attention:
        return
    most = _bytes_per_token(config, cache_values(config.model, config.attention | choices[-1]))
    if most < budget:
        raise _Unmet(
            f"match.kv_bytes_per_token={budget}: no {config.attention['name']} of model={config.model.name} caches so "
            f"much. Nearest below: {most} ({_told(choices[-1])}); above: none",
            *(
                {"kv_bytes_per_token": _bytes_per_token(config, cache_values(config.model, config.attention | choice))}
                for choice in _thinning(choices[::-1])
            ),
        )


def _with_width(config: Config, model: ModelConfig, attention: dict, target: int) -> ModelConfig:
    """`model` with the feed-forward's width, or number of experts, that comes nearest to `target` parameters. Raises
    _Unmet."""
    lever, now = lever_of(config), counted(config.match, measure(model, attention))
    value, of_one = lever.value(model), lever.params_of_one(config.match, model, attention)
    exact = value + (target - now) / of_one
    nearest, least = round(exact / lever.unit) * lever.unit, round(now - (value - lever.least) * of_one)
    if nearest < lever.least and exact >= 1 and lever.is_width:
        raise _Unmet(
            f"match.multiple_of={lever.unit}: the {lever.key} that gives {target:,} parameters is {exact:.0f}",
            *_smaller_units(lever.unit),
            {"params": least, "reference": None},
        )
    if nearest < lever.least:
        _impossible(config, attention, target, least)
    return lever.set_to(model, nearest)


def _thinning(choices: list) -> list:
    """The first, the second, the fourth, the eighth, …: few to try, the nearest most of all."""
    return [choices[2**power - 1] for power in range(len(choices).bit_length())]


def _smaller_units(unit: int) -> list[dict[str, int]]:
    """Powers of two, the largest first."""
    return [{"multiple_of": 2**power} for power in reversed(range((unit - 1).bit_length()))]


def _with_heads(config: Config, target: int) -> tuple[ModelConfig, dict]:
    """Model and attention with the number of heads nearest to `target` parameters, the cache set for each number.

    The width takes what whole heads leave, where that is more than the tolerance.
    """
    step = attention_config(config.attention).heads_step

    def with_heads(groups: int) -> dict:
        return _with_cache(config, config.attention | {"num_attention_heads": groups * step})

    @functools.cache
    def params(groups: int) -> int:
        try:
            return counted(config.match, measure(config.model, with_heads(groups)))
        except ConfigError:
            if groups == 1:
                raise
            return MOST  # so many heads no longer fit into the cache's budget

    if params(1) > target * (1 + TOLERANCE):
        _impossible(config, with_heads(1), target, least=params(1))
    most = 1
    while params(most) < target:
        most *= 2
    first = bisect.bisect_left(range(most // 2, most), target, key=lambda groups: params(groups)) + most // 2
    near = min(range(max(1, first - 2), first + 3), key=lambda groups: abs(params(groups) - target))
    attention = with_heads(near)
    if abs(params(near) - target) <= TOLERANCE * target:
        return config.model, attention
    return _with_width(config, config.model, attention, target), attention


def _impossible(config: Config, attention: dict, target: int, least: int) -> NoReturn:
    """Raises _Unmet: `target` parameters cannot be met with `attention`, whose model has at least `least`."""
    match, budget, lever = config.match, config.match.kv_bytes_per_token, lever_of(config)
    what = f"match.reference={match.reference}" if match.reference else f"match.params={target}"
    told = (
        f"{what}: {attention['name']} of model={config.model.name} has at least {least:,} parameters, the target is "
        f"{target:,}"
    )
    if match.by != "num_attention_heads":
        model, fewest = lever.set_to(config.model, lever.least), config.attention
    else:
        model = config.model
        fewest = config.attention | {"num_attention_heads": attention_config(config.attention).heads_step}
    choices = _choices(config, fewest) if budget is not None else []
    possible = bisect.bisect_right(choices, target, key=lambda choice: counted(match, measure(model, fewest | choice)))
    least_params = {"params": least, "reference": None}
    if possible:
        caches = [
            _bytes_per_token(config, cache_values(config.model, fewest | choice))
            for choice in _thinning(choices[:possible][::-1])
        ]
        raise _Unmet(
            f"match.kv_bytes_per_token={budget} with {told}. Nearest cache possible below: {caches[0]} "
            f"({_told(choices[possible - 1])}); above: none",
            *({"kv_bytes_per_token": cache} for cache in caches),
            least_params,
        )
    fewer_heads = [{"by": "num_attention_heads"}] if match.by != "num_attention_heads" else []
    raise _Unmet(f"{told}. Nearest possible below: none; above: {least}", *fewer_heads, least_params)


def _told(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
