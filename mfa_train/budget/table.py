"""Plans as a table for a person: a column each, and what every column shares told once above it."""

import sys
from decimal import Decimal

from mfa_train.budget.plan import NO_SETTING
from mfa_train.config.quantities import written

Row = tuple[str, list[str]]


def table(titles: list[str], plans: list[dict]) -> str:
    """One column for each plan, under its title."""
    shared = [_shared(plan) for plan in plans]
    lines = shared[:1] if len(set(shared)) == 1 else [f"{title}: {line}" for title, line in zip(titles, shared)]
    sections = [_model(plans), _cache(plans), _flops(plans), _memory(plans), _time(plans)]
    if any(plan["match"] for plan in plans):
        sections.insert(0, _match(plans))
    rows = [("", titles), *(row for section in sections for row in [("", [""] * len(plans)), *section])]
    label = max(len(name) for name, _ in rows)
    widths = [max(len(values[column]) for _, values in rows) for column in range(len(plans))]
    lines.append("")
    lines += [
        "  ".join([name.ljust(label), *(value.rjust(width) for value, width in zip(values, widths))]).rstrip()
        for name, values in rows
    ]
    lines += ["", *(f"{title}: {_verdict(plan['memory'])}" for title, plan in zip(titles, plans))]
    return "\n".join(lines)


def _shared(plan: dict) -> str:
    memory, time = plan["memory"], plan["time"]
    mfu = (
        f"MFU {time['mfu']:.0%} ({time['mfu_source']})"
        if time["peak_flops"]
        else "peak FLOP/s unknown: no time, no cost"
    )
    return (
        f"{memory['world_size']} × {memory['device']}, zero={memory['zero']}, micro-batch "
        f"{memory['micro_batch_size']}, "
        f"{mfu}; decoding at {plan['kv_cache']['context']:,} tokens of {plan['kv_cache']['dtype']} cache"
    )


def _model(plans: list[dict]) -> list[Row]:
    shapes = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    return [
        *((key, [str(plan["model"][key]) for plan in plans]) for key in shapes),
        *(
            (f"parameters, {key.replace('_', ' ')}", [_count(plan["params"][key]) for plan in plans])
            for key in ("total", "non_embedding", "attention_per_layer", "ffn_per_layer")
        ),
    ]


def _cache(plans: list[dict]) -> list[Row]:
    caches = [plan["kv_cache"] for plan in plans]
    return [
        ("KV values per token and layer", [f"{cache['values_per_token_per_layer']:,}" for cache in caches]),
        ("KV bytes per token", [f"{cache['bytes_per_token']:,}" for cache in caches]),
        ("KV bytes read per decoded token", [_bytes(cache["bytes_at_context"]) for cache in caches]),
        *(
            (name, [f"{plan['capacity'][key]:,}" if plan["capacity"] else "-" for plan in plans])
            for name, key in (
                ("total effective rank", "total_effective_rank"),
                ("shared latent dimension", "shared_latent_dim"),
            )
        ),
    ]


def _flops(plans: list[dict]) -> list[Row]:
    return [
        (f"FLOPs, {name}", [f"{_size(plan['flops'][key]):.3g}" for plan in plans])
        for name, key in (
            ("training, per token", "train_per_token"),
            ("training, the run", "train_total"),
            ("decoding, scores and values", "decode_attention_per_token"),
            ("decoding, projections", "decode_linear_per_token"),
            ("decoding, the rest", "decode_rest_per_token"),
        )
    ]


def _memory(plans: list[dict]) -> list[Row]:
    memories = [plan["memory"] for plan in plans]
    rows = [
        (f"memory, {key}", [_bytes(memory[key]) for memory in memories])
        for key in ("weights", "gradients", "optimizer", "transient", "activations")
    ]
    if any(memory["offloaded"] for memory in memories):
        rows.insert(3, ("  of it in the host's memory", [_bytes(memory["offloaded"]) for memory in memories]))
    if any(memory["device"] == "cpu" for memory in memories):  # a GPU's host has it
        rows.append(("memory, copy for checkpoints", [_bytes(memory["checkpoint_copy"]) for memory in memories]))
    rows += [
        ("memory, activations checkpointed", [_bytes(memory["activations_checkpointed"]) for memory in memories]),
        ("memory per device", [_bytes(memory["total"]) for memory in memories]),
    ]
    return rows + [
        (f"  with zero={stage}", [_bytes(memory["total_by_stage"][str(stage)]) for memory in memories])
        for stage in range(4)
    ]


def _time(plans: list[dict]) -> list[Row]:
    times = [plan["time"] for plan in plans]
    rows = [
        ("step", [_duration(time["step_seconds"]) for time in times]),
        ("run", [_duration(time["run_seconds"]) for time in times]),
        ("device-hours", [_number(time["device_hours"]) for time in times]),
    ]
    if any(time["cost"] is not None for time in times):
        rows.append(("cost", [_number(time["cost"]) for time in times]))
    return rows


def _match(plans: list[dict]) -> list[Row]:
    rows = []
    for name, key in (("KV cache against its budget", "kv_cache"), ("parameters against their target", "params")):
        reports = [plan["match"] and plan["match"][key] for plan in plans]
        if any(reports):
            rows.append((name, [_difference(report) for report in reports]))
    changes = [plan["match"]["changed"] if plan["match"] else {} for plan in plans]
    return rows + [
        (f"set: {key}", [_set(change.get(key)) for change in changes]) for key in sorted(set().union(*changes))
    ]


def _difference(report: dict | None) -> str:
    if report is None:
        return "-"
    return "reference" if report.get("role") == "reference" else f"{report['difference']:+.2%}"


def _set(change: list | None) -> str:
    return "-" if change is None else f"{change[0]} → {change[1]}"


def _verdict(memory: dict) -> str:
    share = f"{_bytes(memory['total'])} of {_bytes(memory['usable'])} usable on a {memory['device']}"
    if memory["offloaded"]:
        share += f", {_bytes(memory['offloaded'])} of the host's memory for each device"
    if memory["fits"]:
        return f"fits, {share}"
    change = f"with {' '.join(memory['change'])} it would" if memory["change"] else NO_SETTING
    return f"does not fit, {share}; {change}"


def _size(number: float) -> float | Decimal:
    """As something that can be divided and written with an exponent, however large."""
    return number if number < sys.float_info.max else Decimal(number)


def _bytes(amount: float) -> str:
    return written(_size(amount))


def _count(number: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{_size(number) / size:.4g}{unit}"
    return f"{number:,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"
