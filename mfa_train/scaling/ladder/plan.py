"""What a whole ladder costs, before any of it starts: runs, tokens, epochs, FLOPs, device-hours, price, disk, and what
does not fit."""

from collections.abc import Callable, Sequence
from typing import Any

from mfa_train.budget.devices import planned_device, resolve_precision
from mfa_train.budget.disk import disk_of
from mfa_train.budget.epochs import data_of
from mfa_train.budget.length import flops_between, length_of
from mfa_train.budget.match import matched
from mfa_train.budget.nearer import notes_of_match
from mfa_train.budget.plan import make_plan
from mfa_train.budget.units import UNKNOWN, flops, hours, money, over, ratio, size_of, times, together
from mfa_train.columns import in_columns
from mfa_train.config import Config, Member
from mfa_train.scaling.ladder.branches import branches_at

LADDERS = ("model", "variant", "kv_share", "tokens", "seed")
"""What a ladder goes over itself; what is swept beside it has rows of its own."""
SIZES = 3
"""That a law needs."""
SUMMED = {
    "runs": "runs",
    "tokens": "tokens",
    "flops": "FLOPs",
    "device_hours": "device-hours",
    "cost": "cost",
    "disk_bytes": "disk",
}
"""Keys of a row that are added up, and their names for a person."""


def ladder_plan(members: Sequence[Member]) -> dict:
    """`rows` of each variant, KV budget and size, all its seeds and token budgets together, and their `total`, null
    where a row's is not known.

    Tokens and FLOPs are those that are trained: a branch's count from where it branches off. Raises ConfigError.
    """
    runs: dict[tuple, list[Config]] = {}
    for member in members:
        config = member.config
        beside = [choice for choice in member.swept if choice.split("=")[0] not in LADDERS]
        key: tuple[Any, ...] = (config.model.name, _variant(member), config.match.kv_bytes_per_token, *beside)
        runs.setdefault(key, []).append(config)
    rows, plans = [], []
    epochs: dict[str, float | None] = {}
    for key, configs in runs.items():
        shaped, match = matched(configs[0])
        plan = make_plan(shaped, match=match)
        plan["notes"] += notes_of_match(configs[0], match)
        plans.append(plan)
        rows.append(_row(key, configs, plan, epochs))
    return {"rows": rows, "total": {key: together(*(row[key] for row in rows)) for key in SUMMED}, "plans": plans}


def ladder_table(plan: dict) -> str:
    """The plan for a person."""
    rows, total = plan["rows"], plan["total"]
    columns: list[tuple[str, list[str], str]] = [
        ("size", [row["model"] for row in rows], "total"),
        ("variant", [row["variant"] for row in rows], ""),
        ("KV bytes", [f"{row['kv_bytes_per_token']:,}" for row in rows], ""),
        ("parameters", [f"{row['params']:,}" for row in rows], ""),
        ("lr", [f"{row['learning_rate']:.3g}" for row in rows], ""),
        ("batch", [str(row["batch_size"]) for row in rows], ""),
        ("seeds", [",".join(map(str, row["seeds"])) for row in rows], ""),
        ("token budgets", [" ".join(map(_short, row["budgets"])) for row in rows], ""),
        ("tokens/parameter", [_range(row["tokens_per_parameter"], ratio) for row in rows], ""),
        ("epochs", [_range(row["epochs"], ratio) for row in rows], ""),
        ("runs", [str(row["runs"]) for row in rows], str(total["runs"])),
        ("FLOPs", [flops(row["flops"]) for row in rows], flops(total["flops"])),
        ("device-hours", [hours(row["device_hours"]) for row in rows], hours(total["device_hours"])),
        ("disk", [size_of(row["disk_bytes"]) for row in rows], size_of(total["disk_bytes"])),
    ]
    if any(row["cost"] is not None for row in rows):
        columns.append(("cost", [money(row["cost"]) for row in rows], money(total["cost"])))
    columns.append(("memory", [_fits(row) for row in rows], ""))
    cells = [list(line) for line in zip(*([head, *column, last] for head, column, last in columns))]
    notes = dict.fromkeys(note for one in plan["plans"] for note in one["notes"])
    return "\n".join([*in_columns(cells, [0, 1, len(columns) - 1]), "", *_said_of_all(plan), *notes])


def _said_of_all(plan: dict) -> list[str]:
    """What stands below the rows: what they share, and what is not known."""
    rows, plans = plan["rows"], plan["plans"]

    def over_all(key: str, written: Callable) -> str:
        return _range([value for row in rows for value in row[key]], written)

    schedules = ", ".join(dict.fromkeys(one["length"]["schedule"] for one in plans))
    said = [
        f"{over_all('steps', _whole)} steps, warmup {over_all('warmup_steps', _whole)}, schedule {schedules}, last "
        f"learning rate {over_all('last_learning_rates', _rate)}",
        f"a checkpoint {_range([row['checkpoint_bytes'] for row in rows], size_of)}; disk: of all runs, what is "
        "there at most at once, with the final weights",
        f"{_mfu(plans)}; FLOPs of a branch count from where it branches off",
    ]
    if any(len(one["data"]["sources"]) > 1 for one in plans):
        said.append("epochs: of the corpus that is read most often")
    for key, name in SUMMED.items():
        unknown = sum(row[key] is None for row in rows)
        if unknown and (key != "cost" or unknown < len(rows)):  # without a price nothing is said of costs
            said.append(f"no total of {name}: not known for {unknown} of {len(rows)} rows")
    if (sizes := len({row["model"] for row in rows})) < SIZES:
        said.append(f"{sizes} {'sizes' if sizes > 1 else 'size'}: no scaling law can be fitted to fewer than {SIZES}")
    return said


def _mfu(plans: list[dict]) -> str:
    known = [one["time"] for one in plans if one["time"]["peak_flops"]]
    unknown = ", ".join(dict.fromkeys(one["memory"]["device"] for one in plans if not one["time"]["peak_flops"]))
    told = [f"peak FLOP/s of {unknown} unknown: no time, no cost"] if unknown else []
    if known:
        share = _range([time["mfu"] for time in known], lambda share: f"{share:.0%}")
        told.insert(0, f"MFU {share} ({', '.join(dict.fromkeys(time['mfu_source'] for time in known))})")
    return "; ".join(told)


def _variant(member: Member) -> str:
    return next(choice.partition("=")[2] for choice in member.swept if choice.startswith("variant="))


def _row(key: tuple, configs: list[Config], plan: dict, epochs: dict[str, float | None]) -> dict:
    """Of the runs `configs`, which differ in their length and seed alone. `epochs` holds what was read of corpora for
    other rows, and is added to."""
    first, params = configs[0], plan["params"]["total"]
    device = planned_device(first.cluster.device, first.cluster.devices_per_node)
    dtype, step_seconds = resolve_precision(first.precision, device), plan["time"]["step_seconds"]
    lengths = {config.training.total_steps: length_of(config, params) for config in configs}
    of_steps = {config.training.total_steps: config for config in configs}
    disks = [disk_of(config, params, dtype, step_seconds, branches_at(config)) for config in configs]
    tokens = sum(
        (config.training.total_steps - branches_at(config)) * plan["length"]["tokens_per_step"] for config in configs
    )
    device_hours = times(over(tokens, plan["time"]["tokens_per_second"]), plan["memory"]["world_size"] / 3600)
    steps = sorted(lengths)
    return {
        "model": key[0],
        "variant": " ".join(key[1:2] + key[3:]),
        "kv_bytes_per_token": plan["kv_cache"]["bytes_per_token"],
        "params": params,
        "learning_rate": first.optimizer.lr,
        "batch_size": first.training.batch_size,
        "budgets": [lengths[one]["tokens"] for one in steps],
        "steps": steps,
        "tokens_per_parameter": [lengths[one]["tokens_per_parameter"] for one in steps],
        "epochs": [_epochs(of_steps[one], epochs) for one in steps],
        "warmup_steps": [lengths[one]["warmup_steps"] for one in steps],
        "last_learning_rates": [lengths[one]["last_learning_rate"] for one in steps],
        "seeds": sorted({config.seed for config in configs}),
        "runs": len(configs),
        "tokens": tokens,
        "flops": sum(flops_between(plan, branches_at(config), config.training.total_steps) for config in configs),
        "device_hours": device_hours,
        "cost": times(device_hours, first.cluster.price_per_device_hour),
        "checkpoint_bytes": plan["disk"]["checkpoint_bytes"],
        "disk_bytes": together(*(disk["most_bytes"] for disk in disks)),
        "fits": plan["memory"]["fits"],
        "memory": plan["memory"]["total"],
        "change": plan["memory"]["change"],
    }


def _epochs(config: Config, found: dict[str, float | None]) -> float | None:
    """Of the corpus that is read most often; None where one of them is not known."""
    training = config.training
    key = str((config.data, training.total_steps, training.batch_size, training.sequence_length))
    if key not in found:
        of_sources = [source["epochs"] for source in data_of(config)["sources"]]
        known = [one for one in of_sources if one is not None]
        found[key] = max(known) if known and len(known) == len(of_sources) else None
    return found[key]


def _range(values: Sequence[float | None], written: Callable) -> str:
    """`0.9 to 3.6`, or the one value that all have."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return UNKNOWN
    return " to ".join(dict.fromkeys((written(min(known)), written(max(known)))))


def _short(tokens: int) -> str:
    """5.64e5 of 564,224."""
    return f"{tokens:.3g}".replace("e+0", "e").replace("e+", "e")


def _whole(number: int) -> str:
    return f"{number:,}"


def _rate(rate: float) -> str:
    return f"{rate:.3g}"


def _fits(row: dict) -> str:
    return "fits" if row["fits"] else " ".join(["does not fit;", *(row["change"] or ["nothing helps"])])
