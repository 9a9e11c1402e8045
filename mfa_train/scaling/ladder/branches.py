"""One variant at one size with one seed: the run of the largest token budget, and the smaller budgets' runs, which
branch off it where a WSD schedule would begin to decay for them (arXiv 2404.06395)."""

import dataclasses
from pathlib import Path
from typing import Any

from mfa_train import config as configs
from mfa_train.budget.shape import Shape, measure
from mfa_train.checkpoints.folders import folder_of, step_of
from mfa_train.config import RESUME, Config, Member, RungConfig
from mfa_train.errors import ConfigError
from mfa_train.scaling.ladder.request import Request
from mfa_train.scaling.ladder.rungs import batch_size, peak_learning_rate, token_budgets
from mfa_train.scaling.ladder.variants import ShapedVariant
from mfa_train.training.steps.schedule import decay_start


def branches_at(config: Config) -> int:
    """The step after which a ladder's member branches off another; 0 where it is trained from nothing."""
    return 0 if config.resume in RESUME else step_of(Path(config.resume))


def run_and_branches(request: Request, rung: RungConfig, variant: ShapedVariant, seed: int) -> list[Member]:
    """The member of the largest budget, then those of the others. Raises ConfigError where the schedule is not constant
    and they could not branch off."""
    config = variant.config
    sequence_length, reference = config.training.sequence_length, _reference(config)
    budgets = token_budgets(request, rung, reference, sequence_length)
    batch = batch_size(request, rung, budgets[0], sequence_length, config.training.batch_size)
    rate = peak_learning_rate(request, variant.name, variant.share, reference, budgets[0], config.optimizer.lr)
    steps_of = [max(1, round(tokens / (batch * sequence_length))) for tokens in budgets]
    branching = request.ladder.branches and len(budgets) > 1
    if branching and config.schedule.name != "wsd":
        raise ConfigError(
            f"schedule={config.schedule.name}: budgets can't branch off one run unless it is constant "
            "between warmup and decay: type schedule=wsd, or sweep.ladder.branches=false"
        )
    found: list[Member] = []
    for steps in steps_of:
        tokens = steps * batch * sequence_length
        own: dict[str, Any] = {
            "seed": seed,
            "training.steps": steps,
            "training.batch_size": batch,
            "optimizer.lr": rate,
            "name": _name(request, rung, variant, tokens, seed),
            "tracking.group": request.group,
        }
        after = found[0].config.run_dir if branching and found else None
        if after:
            own["resume"] = str(folder_of(after / "checkpoints", decay_start(config.schedule, steps)))
        elif branching:
            own["checkpoint.at_steps"] = sorted({decay_start(config.schedule, fewer) for fewer in steps_of[1:]})
        found.append(_member(request, rung, variant, tokens, own, after))
    return found


def _reference(config: Config) -> Shape:
    """What all variants of the size are matched to."""
    name = config.match.reference or "mha"
    return measure(config.model, configs.default_attention(name, config.model))


def _member(
    request: Request, rung: RungConfig, variant: ShapedVariant, tokens: int, own: dict[str, Any], after: Path | None
) -> Member:
    """A member with its `own` values of dotted keys; it begins when the run in `after` has finished."""
    swept = [
        f"model={rung.model}",
        f"variant={variant.name}",
        *([f"kv_share={variant.share}"] if variant.share is not None else []),
        f"tokens={tokens}",
        f"seed={own['seed']}",
        *request.beside,
    ]
    overrides = [
        *request.overrides,
        "sweep.ladder=null",
        *variant.overrides,
        *(f"{key}={configs.written(value)}" for key, value in own.items()),
    ]
    return Member(swept, overrides, _with(variant.config, own), after)


def _name(request: Request, rung: RungConfig, variant: ShapedVariant, tokens: int, seed: int) -> str:
    """The name of a run, as mfa-kv192-280k-1.13M-seed1."""
    cache = variant.config.match.kv_bytes_per_token
    parts = [
        request.name,
        variant.name,
        cache and f"kv{cache}",
        rung.model,
        *map(configs.as_name, request.beside),
        _short(tokens),
        f"seed{seed}",
    ]
    return configs.cut("-".join(part for part in parts if part))


def _short(tokens: int) -> str:
    """1.4M of 1,400,832."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return str(tokens)


def _with(config: Config, values: dict[str, Any]) -> Config:
    """A copy with the values of dotted keys; what is derived from them elsewhere stays."""
    tree = dataclasses.replace(config)
    for key, value in values.items():
        *groups, last = key.split(".")
        node: Any = tree
        for group in groups:
            setattr(node, group, dataclasses.replace(getattr(node, group)))
            node = getattr(node, group)
        setattr(node, last, value)
    if "training.steps" in values:
        tree.training.tokens = None
    return tree
