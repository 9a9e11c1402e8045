"""Plans as a table for a person: a column each, and what every column shares told once above it."""

from collections.abc import Sequence

from mfa_train.budget import rows
from mfa_train.budget.plan import NO_SETTING
from mfa_train.budget.rows import Row, Section
from mfa_train.budget.units import count, duration, flops, hours, money, size_of, times, together
from mfa_train.columns import in_columns
from mfa_train.tracking.terminal import wrapped

WHOLE = (
    rows.match,
    rows.model,
    rows.cache,
    rows.all_flops,
    rows.memory,
    rows.length,
    rows.disk,
    rows.context,
    rows.time,
)
BRIEF = (rows.match, rows.length, rows.disk, rows.context, rows.time)
"""Of a launch: what it does, and what it costs."""
ONLY_WITH: dict[Section, str] = {rows.match: "match", rows.context: "context"}
"""What stands there only where a plan has that part."""


def table(
    titles: Sequence[str],
    plans: Sequence[dict],
    runs: Sequence[int] | None = None,
    sections: Sequence[Section] = WHOLE,
) -> str:
    """One column for each plan, under its title. `runs`: how many runs each stands for, that differ in their seed
    alone."""
    lines = [wrapped(line) for line in _told_once([_devices(plan) for plan in plans], titles)]
    found: list[Row] = [("", list(titles))]
    for section in sections:
        if (key := ONLY_WITH.get(section)) and not any(plan.get(key) for plan in plans):
            continue
        found += [("", [""] * len(plans)), *section(plans)]
    lines += ["", *in_columns([[name, *values] for name, values in found], words=[0])]
    if sum(counts := list(runs or [1] * len(plans))) > 1:
        lines += ["", wrapped(_together(plans, counts))]
    lines += ["", *(wrapped(f"{title}: {_verdict(plan['memory'])}") for title, plan in zip(titles, plans))]
    noted = dict.fromkeys(note for plan in plans for note in plan["notes"])
    return "\n".join([*lines, *([""] if noted else []), *map(wrapped, noted)])


def _told_once(lines: list[str], titles: Sequence[str]) -> list[str]:
    return lines[:1] if len(set(lines)) == 1 else [f"{title}: {line}" for title, line in zip(titles, lines)]


def _devices(plan: dict) -> str:
    memory, time, cache = plan["memory"], plan["time"], plan["kv_cache"]
    if not time["peak_flops"]:
        shares = "peak FLOP/s unknown: no time, no cost"
    elif time["mfu_source"] == "assumed":
        shares = "shares of the peak and of links assumed"
    else:
        shares = f"MFU {time['mfu']:.0%} ({time['mfu_source']})"
    shared = f"sequences over {plan['context']['ranks']} ranks, " if "context" in plan else ""
    return (
        f"{memory['world_size']} × {memory['device']}, zero={memory['zero']}, micro-batch "
        f"{memory['micro_batch_size']}, {shared}{time['precision']}, {shares}; decoding at "
        f"{cache['context']:,} tokens of {cache['dtype']} cache"
    )


def _together(plans: Sequence[dict], runs: Sequence[int]) -> str:
    """All runs' tokens, FLOPs, device-hours, cost and checkpoints; what one of them doesn't know is left out."""

    def sum_of(part: str, key: str) -> float | None:
        return together(*(times(number, plan[part][key]) for number, plan in zip(runs, plans)))

    told = [
        f"{sum(runs)} runs together: {count(sum(n * plan['length']['tokens'] for n, plan in zip(runs, plans)))} tokens"
    ]
    for written, name, part, key in (
        (flops, "{} FLOPs", "flops", "train_total"),
        (hours, "{} device-hours", "time", "device_hours"),
        (duration, "{} one after another", "time", "run_seconds"),
        (money, "cost {}", "time", "cost"),
        (size_of, "{} on the disk", "disk", "most_bytes"),
    ):
        if (amount := sum_of(part, key)) is not None:
            told.append(name.format(written(amount)))
    return ", ".join(told)


def _verdict(memory: dict) -> str:
    share = f"{size_of(memory['total'])} of {size_of(memory['usable'])} usable on a {memory['device']}"
    if memory["offloaded"]:
        share += f", {size_of(memory['offloaded'])} of the host's memory for each device"
    if memory["fits"]:
        return f"fits, {share}"
    change = f"with {' '.join(memory['change'])} it would" if memory["change"] else NO_SETTING
    return f"does not fit, {share}; {change}"
