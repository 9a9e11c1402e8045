"""What a whole ladder costs, before any of it starts: runs, tokens, FLOPs, device-hours, price, and what does not
fit."""

from collections.abc import Sequence
from typing import Any

from mfa_train.budget.match import matched
from mfa_train.budget.nearer import notes_of_match
from mfa_train.budget.plan import make_plan
from mfa_train.budget.units import finite, hours, money
from mfa_train.config import Config, Member
from mfa_train.scaling.ladder.branches import branches_at

LADDERS = ("model", "variant", "kv_share", "tokens", "seed")
"""What a ladder goes over itself; what is swept beside it has rows of its own."""
SIZES = 3
"""That a law needs."""
SUMMED = ("runs", "tokens", "flops", "device_hours", "cost")


def ladder_plan(members: Sequence[Member]) -> dict:
    """`rows` of each variant, KV budget and size, all its seeds and token budgets together, and their `total`.

    Tokens and FLOPs are those that are trained: a branch's count from where it branches off. Raises ConfigError.
    """
    rows: dict[tuple, dict] = {}
    plans: dict[tuple, dict] = {}
    for member in members:
        config = member.config
        beside = [choice for choice in member.swept if choice.split("=")[0] not in LADDERS]
        key: tuple[Any, ...] = (config.model.name, _variant(member), config.match.kv_bytes_per_token, *beside)
        if key not in plans:
            shaped, match = matched(config)
            plans[key] = make_plan(shaped, match=match)
            plans[key]["notes"] += notes_of_match(config, match)
        row = rows.setdefault(key, _row(key, config, plans[key]))
        _add(row, config, plans[key])
    found = [row | {"budgets": sorted(row["budgets"]), "seeds": sorted(row["seeds"])} for row in rows.values()]
    total = {key: _sum([row[key] for row in found]) for key in SUMMED}
    return {"rows": found, "total": total, "plans": list(plans.values())}


def ladder_table(plan: dict) -> str:
    """The plan for a person."""
    head = (
        "size",
        "variant",
        "KV bytes",
        "parameters",
        "lr",
        "batch",
        "seeds",
        "token budgets",
        "runs",
        "FLOPs",
        "device-hours",
        "memory",
        *(["cost"] if plan["total"]["cost"] is not None else []),
    )
    lines = [head, *(_cells(row, len(head)) for row in plan["rows"])]
    total = plan["total"]
    lines.append(
        (
            "total",
            *[""] * 7,
            f"{total['runs']}",
            f"{total['flops']:.3g}",
            hours(total["device_hours"]),
            "",
            money(total["cost"]),
        )[: len(head)]
    )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    printed = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]
    shares = sorted(one["time"]["mfu"] for one in plan["plans"])
    mfu = " to ".join(dict.fromkeys(f"{share:.0%}" for share in (shares[0], shares[-1])))
    source = plan["plans"][0]["time"]["mfu_source"]
    printed += ["", f"MFU {mfu} ({source}); FLOPs of a branch count from where it branches off"]
    if (sizes := len({row["model"] for row in plan["rows"]})) < SIZES:
        printed.append(
            f"{sizes} {'sizes' if sizes > 1 else 'size'}: no scaling law can be fitted to fewer than {SIZES}"
        )
    printed += dict.fromkeys(note for one in plan["plans"] for note in one["notes"])
    return "\n".join(printed)


def _variant(member: Member) -> str:
    return next(choice.partition("=")[2] for choice in member.swept if choice.startswith("variant="))


def _row(key: tuple, config: Config, plan: dict) -> dict:
    return {
        "model": key[0],
        "variant": " ".join(key[1:2] + key[3:]),
        "kv_bytes_per_token": plan["kv_cache"]["bytes_per_token"],
        "params": plan["params"]["total"],
        "learning_rate": config.optimizer.lr,
        "batch_size": config.training.batch_size,
        "budgets": set(),
        "seeds": set(),
        "runs": 0,
        "tokens": 0,
        "flops": 0,
        "device_hours": None,
        "cost": None,
        "fits": plan["memory"]["fits"],
        "memory": plan["memory"]["total"],
        "change": plan["memory"]["change"],
    }


def _add(row: dict, config: Config, plan: dict) -> None:
    per_step = config.training.batch_size * config.training.sequence_length
    tokens = (config.training.total_steps - branches_at(config)) * per_step
    flops, speed = tokens * plan["flops"]["train_per_token"], plan["time"]["tokens_per_second"]
    row["budgets"].add(config.training.total_steps * per_step)
    row["seeds"].add(config.seed)
    row["runs"] += 1
    row["tokens"] += tokens
    row["flops"] += flops
    if speed and (hours := finite(lambda: tokens / speed / 3600 * plan["memory"]["world_size"])):
        row["device_hours"] = finite(lambda: (row["device_hours"] or 0) + hours)
        if (price := config.cluster.price_per_device_hour) is not None:
            row["cost"] = finite(lambda: (row["cost"] or 0) + hours * price)


def _cells(row: dict, count: int) -> tuple[str, ...]:
    return (
        row["model"],
        row["variant"],
        f"{row['kv_bytes_per_token']:,}",
        f"{row['params']:,}",
        f"{row['learning_rate']:.3g}",
        str(row["batch_size"]),
        ",".join(map(str, row["seeds"])),
        " ".join(f"{tokens:.3g}".replace("e+0", "e").replace("e+", "e") for tokens in row["budgets"]),
        str(row["runs"]),
        f"{row['flops']:.3g}",
        hours(row["device_hours"]),
        "fits" if row["fits"] else " ".join(["does not fit;", *(row["change"] or ["nothing helps"])]),
        money(row["cost"]),
    )[:count]


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
