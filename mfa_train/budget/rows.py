"""The rows of a plan's table, section by section: a name, and a cell for each plan."""

from collections.abc import Callable, Sequence

from mfa_train.budget.disk import HOUR
from mfa_train.budget.units import UNKNOWN, count, duration, flops, hours, money, ratio, size_of

Row = tuple[str, list[str]]
Section = Callable[[Sequence[dict]], list[Row]]


def match(plans: Sequence[dict]) -> list[Row]:
    rows: list[Row] = []
    for name, key in (("KV cache against its budget", "kv_cache"), ("parameters against their target", "params")):
        reports = [plan["match"] and plan["match"][key] for plan in plans]
        if any(reports):
            rows.append((name, [_difference(report) for report in reports]))
    changes = [plan["match"]["changed"] if plan["match"] else {} for plan in plans]
    return rows + [
        (f"set: {key}", [_set(change.get(key)) for change in changes]) for key in sorted(set().union(*changes))
    ]


def model(plans: Sequence[dict]) -> list[Row]:
    shapes = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    params = ["total", "non_embedding", "attention_per_layer", "ffn_per_layer"]
    of_experts: list[str] = []
    if any("n_routed_experts" in plan["model"] for plan in plans):
        of_experts = ["n_routed_experts", "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size"]
        params[1:1] = ["active", "active_without_input_embedding"]
    return [
        *((key, [f"{plan['model'][key]:,}" for plan in plans]) for key in shapes),
        *((key, [_known(plan["model"].get(key)) for plan in plans]) for key in of_experts),
        *((f"parameters, {key.replace('_', ' ')}", [count(plan["params"][key]) for plan in plans]) for key in params),
    ]


def cache(plans: Sequence[dict]) -> list[Row]:
    caches = [plan["kv_cache"] for plan in plans]
    return [
        ("KV values per token and layer", [f"{one['values_per_token_per_layer']:,}" for one in caches]),
        ("KV bytes per token", [f"{one['bytes_per_token']:,}" for one in caches]),
        ("KV bytes read per decoded token", [size_of(one["bytes_at_context"]) for one in caches]),
        *(
            (name, [f"{plan['capacity'][key]:,}" if plan["capacity"] else UNKNOWN for plan in plans])
            for name, key in (
                ("total effective rank", "total_effective_rank"),
                ("shared latent dimension", "shared_latent_dim"),
            )
        ),
    ]


def all_flops(plans: Sequence[dict]) -> list[Row]:
    return [
        (f"FLOPs, {name}", [flops(plan["flops"][key]) for plan in plans])
        for name, key in (
            ("training, per token", "train_per_token"),
            ("training, the run", "train_total"),
            ("decoding, scores and values", "decode_attention_per_token"),
            ("decoding, projections", "decode_linear_per_token"),
            ("decoding, the rest", "decode_rest_per_token"),
        )
    ]


def memory(plans: Sequence[dict]) -> list[Row]:
    memories = [plan["memory"] for plan in plans]
    found = [
        _row(f"memory, {key}", memories, key, size_of)
        for key in ("weights", "gradients", "optimizer", "transient", "activations")
    ]
    if any(one["offloaded"] for one in memories):
        found.insert(3, _row("  of it in the host's memory", memories, "offloaded", size_of))
    on_cpu = any(one["device"] == "cpu" for one in memories)
    copy = _row(
        "memory, copy for checkpoints" if on_cpu else "host, copy for checkpoints", memories, "checkpoint_copy", size_of
    )
    if on_cpu:
        found.append(copy)
    return [
        *found,
        _row("memory, activations selective", memories, "activations_selective", size_of),
        _row("memory, activations checkpointed", memories, "activations_checkpointed", size_of),
        _row("memory per device", memories, "total", size_of),
        *(
            _row(f"  with zero={stage}", [one["total_by_stage"] for one in memories], str(stage), size_of)
            for stage in range(4)
        ),
        *([] if on_cpu else [copy]),
    ]


def length(plans: Sequence[dict]) -> list[Row]:
    lengths = [plan["length"] for plan in plans]
    found = [
        _row("steps", lengths, "steps", _whole),
        _row("tokens", lengths, "tokens", count),
        _row("tokens per parameter", lengths, "tokens_per_parameter", ratio),
    ]
    for number in range(max(len(plan["data"]["sources"]) for plan in plans)):
        sources = [plan["data"]["sources"][number] for plan in plans if number < len(plan["data"]["sources"])]
        name = sources[0]["name"] if len({source["name"] for source in sources}) == 1 else f"corpus {number + 1}"
        found.append(_row(f"epochs of {name}", sources, "epochs", ratio))
    return [
        *found,
        _row("warmup, steps", lengths, "warmup_steps", _whole),
        _row("learning rate, peak", lengths, "peak_learning_rate", _rate),
        _row("learning rate, last", lengths, "last_learning_rate", _rate),
        ("schedule", [one["schedule"] for one in lengths]),
    ]


def disk(plans: Sequence[dict]) -> list[Row]:
    disks = [plan["disk"] for plan in plans]
    return [
        _row("disk, a checkpoint", disks, "checkpoint_bytes", size_of),
        _row("disk, most at once", disks, "most_bytes", size_of),
        _written(plans),
    ]


def _written(plans: Sequence[dict]) -> Row:
    """In an hour; in the run where it is shorter, which each cell says if not all are."""
    seconds = [plan["time"]["run_seconds"] for plan in plans]
    short = [one is not None and one < HOUR for one in seconds]
    cells = [size_of(plan["disk"]["bytes_per_hour"]) for plan in plans]
    if all(short):
        return "disk, written in the run", cells
    return "disk, written in an hour", [f"{cell} in the run" if one else cell for cell, one in zip(cells, short)]


def time(plans: Sequence[dict]) -> list[Row]:
    times = [plan["time"] for plan in plans]
    found: list[Row] = [
        ("attention kernel", ["unfused" if one["kernel"] == "math" else one["kernel"] for one in times]),
        ("MFU of a step", [f"{one['mfu']:.1%}" if one["peak_flops"] else UNKNOWN for one in times]),
    ]
    if any(one["computing_seconds"] is not None for one in times):
        found += [
            ("  share of the peak, scores and values", [_share(one["kernel_share"]) for one in times]),
            ("  share of the peak, other products", [_share(one["products_share"]) for one in times]),
            _row("step, computing", times, "computing_seconds", duration),
        ]
    if any(one["recomputation_seconds"] for one in times):
        found.append(_row("step, recomputation", times, "recomputation_seconds", duration))
    if any(one["communication_bytes"] for one in times):
        found += [
            _row("sent by each device in a step", times, "communication_bytes", size_of),
            _row("step, sending", times, "communication_seconds", duration),
        ]
    if any(one["expert_bytes_per_token"] for one in times):
        found += [
            _row("sent to other ranks' experts, per token", times, "expert_bytes_per_token", size_of),
            _row("step, sending to experts", times, "expert_seconds", duration),
        ]
    if any(one["communication_bytes"] for one in times):
        found.append(_row("  of it not beside computing", times, "waiting_seconds", duration))
    found += [
        _row("step", times, "step_seconds", duration),
        _row("run", times, "run_seconds", duration),
        _row("device-hours", times, "device_hours", hours),
    ]
    if any(one["cost"] is not None for one in times):
        found.append(_row("cost", times, "cost", money))
    return found


def context(plans: Sequence[dict]) -> list[Row]:
    """What each attention pays for sequences that ranks share; a dash where none is."""
    parts = [plan.get("context") for plan in plans]

    def told(name: str, key: str, written: Callable) -> Row:
        return name, [UNKNOWN if part is None or part[key] is None else written(part[key]) for part in parts]

    def by(way: str) -> Row:
        amounts = [part and part["received_bytes_by"][way] for part in parts]
        return f"  by {way} it would be", [size_of(amount) for amount in amounts]

    found = [
        told("ranks that share a sequence", "ranks", _whole),
        told("tokens of each", "local_tokens", _whole),
        told("they send each other", "by", str),
        told("received in a layer, forward", "received_bytes_per_layer", size_of),
        told("received by each device in a step", "received_bytes", size_of),
        by("entries"),
        by("heads"),
        told("step, sharing sequences", "seconds", duration),
        told("  of it beside the query", "hidden_seconds", duration),
        told("  of it waited for", "waiting_seconds", duration),
        told("  share of the step", "share_of_step", "{:.1%}".format),
    ]
    if any(part and part["expansion_flops_per_token"] for part in parts):
        found.append(told("FLOPs of expanding others' entries", "expansion_share", "{:.1%}".format))
    return found


def _row(name: str, parts: Sequence[dict], key: str, told: Callable) -> Row:
    return name, [told(part[key]) for part in parts]


def _whole(number: int) -> str:
    return f"{number:,}"


def _known(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number:,}"


def _rate(rate: float) -> str:
    return f"{rate:.3g}"


def _share(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.0%}"


def _difference(report: dict | None) -> str:
    if report is None:
        return UNKNOWN
    if report.get("role") == "reference":
        return "reference"
    return f"{report['difference']:+.2%}{', kept' if report.get('role') == 'kept' else ''}"


def _set(change: list | None) -> str:
    return UNKNOWN if change is None else f"{change[0]} → {change[1]}"
