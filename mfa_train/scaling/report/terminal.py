"""A comparison at the terminal, in one screen: the answer, a line for each variant, and where the rest is."""

from mfa_train.columns import in_columns
from mfa_train.scaling.report.terminal_scores import scores_of_largest
from mfa_train.scaling.report.thinning import told_thinned
from mfa_train.scaling.study.size_names import count_name
from mfa_train.scaling.verdicts.said import OPEN
from mfa_train.scaling.verdicts.sentences import label
from mfa_train.tracking.terminal import wrapped

WIDTH, WIDEST = 110, 120
"""Of sentences, and of the table."""
MOST_VARIANTS = 20
"""Lines of the table."""
MOST_NOTICES = 4
NOTICE_LINES = 7
"""Of all notices together."""
LEAST_NAME, LONGEST_NAME = 16, 40
"""Characters of a variant's name."""
LAW = ("E", "A", "alpha", "B", "beta")


def told(result: dict) -> str:
    """The answer in sentences and the losses it rests on, with their intervals."""
    parts = ["\n".join(_wrapped(sentence) for sentence in result["answer"]["sentences"])]
    if rows := result["at_largest"]:
        parts.append(_losses(result, rows))
    if "evaluations" in result:
        sentences, tables, legend = scores_of_largest(result)
        parts += ["\n".join(map(_wrapped, sentences)), f"{tables}\n{_wrapped(legend)}"]
    if not result["verdicts"] and (laws := _laws(result)):
        parts.append(laws)
    if why := result["answer"]["why_no_law"]:
        parts.append(_wrapped(why))
    return "\n\n".join(parts) + "\n"


def told_notices(result: dict, place: str) -> str:
    """The first notices, whole as far as they fit, and how many more there are; empty without any."""
    lines: list[str] = []
    told = 0
    for notice in result["notices"][:MOST_NOTICES]:
        whole = _wrapped(f"notice: {label(notice)}").split("\n")
        if lines and len(lines) + len(whole) > NOTICE_LINES:
            break
        lines += whole[:NOTICE_LINES]
        told += 1
    if left := len(result["notices"]) - told:
        lines.append(f"{left} more {'notice' if left == 1 else 'notices'}: {place}")
    return "\n".join(lines)


def told_files(result: dict, on_page: dict, in_json: dict, cut: dict[str, tuple[int, int]]) -> list[str]:
    """What the files of a large study list, of how many."""
    listings = [(where, told_thinned(listed)) for where, listed in (("index.html", on_page), ("fit.json", in_json))]
    listings += [(f"{name}.csv", f"{some:,} of {many:,} rows") for name, (some, many) in cut.items()]
    return [
        f"thinned: {where} lists {some}, evenly; the numbers are of all that are compared"
        for where, some in listings
        if some
    ]


def _losses(result: dict, rows: list[dict]) -> str:
    """A line for each variant: what it costs, its loss at the largest cell, and what is said of it."""
    reference, size = result["reference"], rows[0]["size"]
    against = {row["variant"]: row for row in result["answer"]["against"]}
    decoding = any(row["decode_flops_per_token"] for row in rows)
    head = (
        "variant",
        "KV bytes",
        *(["decode FLOPs"] if decoding else []),
        f"loss at {result['sizes'].get(size, size)}, {count_name(rows[0]['cell_tokens'], 3)} tokens",
        f"less {label(reference)}'s, all pairs",
        "p (Holm)",
        "",
    )
    ordered = sorted(rows, key=lambda row: row["loss"]["value"])
    lines = [
        _line(row, against.get(row["variant"]), row["variant"] == reference, decoding)
        for row in ordered[:MOST_VARIANTS]
    ]
    room = WIDEST - max(map(len, _table(head, [["", *line[1:]] for line in lines]).split("\n"))) + len(head[0])
    table = _table(head, [[_cut(line[0], max(LEAST_NAME, room)), *line[1:]] for line in lines])
    if (more := len(ordered) - MOST_VARIANTS) > 0:
        table += f"\n{more} more variants: loss_over_kv.csv, verdicts.csv"
    costs = "KV bytes and decode FLOPs are" if decoding else "KV bytes are"
    behind = f", decode FLOPs behind {result['decode_context']:,} cached ones" if result["decode_context"] else ""
    legend = (
        f"{costs} of a token, all layers{behind}; losses: {result['conventions']['loss']}; [95% intervals]; ? = not "
        f"shown; less {label(reference)}'s: mean over all sizes, seeds and token budgets, each size and seed counting "
        "once"
    )
    return f"{table}\n{_wrapped(legend)}"


def _line(row: dict, against: dict | None, is_reference: bool, decoding: bool) -> list[str]:
    said = "reference" if is_reference else "no pairs" if against is None else against["said"]
    return [
        label(row["variant"]),
        "-" if row["kv_bytes_per_token"] is None else f"{row['kv_bytes_per_token']:,.0f}",
        *([_count(row["decode_flops_per_token"])] if decoding else []),
        _number(row["loss"], ".4f"),
        "-" if against is None else _number(against["difference"], "+z.3f"),
        "-" if against is None or against["p_holm"] is None else f"{against['p_holm']:.2g}",
        said if said != OPEN or against is None else _not_shown(against),
    ]


def _count(value: float | None) -> str:
    return "-" if value is None else count_name(value, 3)


def _not_shown(against: dict) -> str:
    more = against["more_seeds"]
    if against["sizes_differ"]:
        return "? sizes differ"
    return "?" if more is None else f"? {more} more seed{'' if more == 1 else 's'}"


def _laws(result: dict) -> str:
    """Of a study without pairs, whose laws are all it tells."""
    laws = {name: one["fit"] for name, one in result["variants"].items() if one["fit"]["method"] != "none"}
    lines = [
        [_cut(label(name), LONGEST_NAME), *(_number(law[key], ".4g") for key in LAW)] for name, law in laws.items()
    ]
    return _table(("variant", *LAW), lines[:MOST_VARIANTS]) if lines else ""


def _number(found: dict, form: str) -> str:
    value, low, high = ("-" if found[key] is None else f"{found[key]:{form}}" for key in ("value", "low", "high"))
    return value if low == high == "-" else f"{value} [{low}, {high}]"


def _cut(name: str, most: int) -> str:
    """Its beginning and its end, where the values of variants' keys stand."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[len(name) - (most - 1) // 2 :]}"


def _wrapped(text: str) -> str:
    return wrapped(" ".join(text.split()), WIDTH)


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    rows = [[" ".join(value.split()) for value in row] for row in rows]  # names of others may hold ends of lines
    return "\n".join(in_columns([head, *rows], words=range(len(head))))
