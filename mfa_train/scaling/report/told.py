"""A comparison at the terminal: the laws, the answers at the largest budget, the verdicts."""

FRONTIER = ("variant", "loss", "difference", "at its N and D", "multiplier", "best N", "best D")
LAWS = ("variant", "E", "A", "alpha", "B", "beta", "fit")
VERDICTS = ("variants", "loss difference", "at equal FLOPs", "tokens ×", "KV ×", "p (Holm)", "units", "")


def told(result: dict) -> str:
    """Tables for a person, with the estimator and the conventions they hold under."""
    conventions = result["conventions"]
    parts = [
        f"{conventions['estimator']}\nN: {conventions['parameters']}. FLOPs: {conventions['flops']}. "
        f"Loss: {conventions['loss']}. [95% intervals]",
        _table(LAWS, [_law(name, one["fit"]) for name, one in result["variants"].items()]),
    ]
    for accounting, meaning in conventions["compute"].items():
        rows = [row for row in result["at_budgets"] if row["accounting"] == accounting]
        budgets = len({row["compute"] for row in rows})
        rows = [row for row in rows if row["compute"] == max(each["compute"] for each in rows)]
        if rows:
            head = f"At {rows[0]['compute']:.3g} FLOPs, {meaning}; held against {result['reference']}"
            if budgets > 1:
                head += f" ({budgets - 1} smaller budgets: at_budgets.csv)"
            parts.append(head + "\n" + _table(FRONTIER, [_answer(row) for row in rows]))
    if result["verdicts"]:
        parts.append(
            "Pairs of one size, token budget, seed and data order; below zero the first is better; p is corrected for\n"
            "the number of pairs\n" + _table(VERDICTS, [_verdict(row) for row in result["verdicts"]])
        )
    return "\n\n".join(parts) + "\n"


def _law(name: str, fit: dict) -> list[str]:
    if fit["method"] == "none":
        return [name, "-", "-", "-", "-", "-", fit["reason"]]
    return [name, *(_number(fit[key], 4) for key in LAWS[1:6]), fit["method"]]


def _answer(row: dict) -> list[str]:
    beyond = " (extrapolated)" if row["extrapolated"] else ""
    return [
        row["variant"],
        _number(row["loss"], 4),
        _number(row["difference"], 2),
        _number(row["difference_at_same_shape"], 2),
        _number(row["multiplier"], 3),
        _number(row["params"], 3),
        _number(row["tokens"], 3) + beyond,
    ]


def _verdict(row: dict) -> list[str]:
    return [
        f"{row['a']} - {row['b']}",
        _number(row["difference"], 2),
        _number(row["difference_at_equal_flops"], 2),
        _number(row["token_multiplier"], 3),
        "-" if row["kv_ratio"] is None else f"{row['kv_ratio']:.3g}",
        "-" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
        str(row["units"]),
        row["says"],
    ]


def _number(found: dict | None, digits: int) -> str:
    if found is None:
        return "-"
    value, low, high = ("-" if found[key] is None else f"{found[key]:.{digits}g}" for key in ("value", "low", "high"))
    return value if low == high == "-" else f"{value} [{low}, {high}]"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    rows = [[" ".join(value.split()) for value in row] for row in rows]  # names of others may hold ends of lines
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(line, widths)).rstrip() for line in [head, *rows]
    )
