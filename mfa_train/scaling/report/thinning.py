"""What is listed of a large study, so that its report can be opened: thinned evenly, and said. Numbers are of all runs
that are compared (drawn.py)."""

from typing import Any

from mfa_train.scaling.study.drawn import NOT_DRAWN

ROWS = 100_000
"""Of a CSV."""
LISTED = 5_000
"""Entries of a list in fit.json."""
NAMED = 20_000
"""Names of runs in fit.json, of all verdicts together, all variants and all losses over KV."""
PAGE_BYTES = 5_000_000
NOTICES = 300
PICTURED = 6_000
"""Points of one kind in a picture."""
THINNED = (
    "runs",
    "verdicts",
    "loss_over_kv",
    "kv_at_equal_loss",
    "at_budgets",
    "frontiers",
    "evaluations",
    "loss_by_position",
)


def evenly(rows: list, most: int) -> list:
    """The first and others of the rows at equal distances; all where they are no more than `most`."""
    if len(rows) <= most:
        return rows
    return [rows[index * len(rows) // most] for index in range(most)]


def brief(result: dict, most: int = LISTED) -> dict:
    """`result` with no list longer than `most`, and under `thinned` how many of how many each lists; itself where
    nothing is too long."""
    lists = [key for key in THINNED if key in result]
    found = result | {key: evenly(result[key], most) for key in lists}
    if len(result["runs"]) > most:
        found["runs"] = evenly([run for run in result["runs"] if run["excluded"] != NOT_DRAWN], most)
    share = NAMED * most // LISTED
    for key, names in (("verdicts", "runs"), ("loss_over_kv", "runs"), ("loss_over_kv", "by_seed")):
        found[key] = _named(found[key], names, share)
    variants = _named(list(result["variants"].values()), "runs", share)
    found["variants"] = dict(zip(result["variants"], variants))
    thinned = dict(result.get("thinned", {}))
    for key in lists:
        of = thinned[key][1] if key in thinned else len(result[key])
        if len(found[key]) < of:
            thinned[key] = [len(found[key]), of]
    if len(found["runs"]) < len(result["runs"]):
        used = sum(run["excluded"] is None for run in result["runs"])
        found.setdefault("counts", {"runs": len(result["runs"]), "used": used})
    return found | ({"thinned": thinned} if thinned else {})


def told_thinned(result: dict) -> str:
    """In words; empty where nothing is."""
    return ", ".join(
        f"{some:,} of {of:,} {key.replace('_', ' ')}" for key, (some, of) in result.get("thinned", {}).items()
    )


def few_notices(notices: list[str]) -> list[str]:
    """With what is too much for a person counted instead."""
    if len(notices) <= NOTICES:
        return notices
    left_out = sum(notice.startswith("left out: ") for notice in notices[NOTICES:])
    more = f"{len(notices) - NOTICES:,} notices more, {left_out:,} of them of runs that are left out (runs.csv)"
    return [*notices[:NOTICES], more]


def _named(rows: list[dict], key: str, share: int) -> list[dict]:
    """Rows whose lists (or objects) of runs are together no longer than about `share`; how long they were stands
    beside."""
    if sum(len(row[key]) for row in rows) <= share:
        return rows
    most = max(10, share // len(rows))
    return [row | {key: _some(row[key], most), f"all_{key}": row.get(f"all_{key}", len(row[key]))} for row in rows]


def _some(names: Any, most: int) -> Any:
    return evenly(names, most) if isinstance(names, list) else dict(evenly(list(names.items()), most))
