"""Points of a scaling study from anywhere: a CSV with a row for each trained model.

Columns, by any of these names in any case, the first that is there: the number of parameters, the tokens, the loss;
and, if known, training FLOPs, variant, seed, KV bytes per token. Where tokens are missing they are C / 6N. No number but
one above zero is known: a row without one of the first three takes no part. Rows whose parameters are within 2% are of
one size.
"""

import csv
import math
from pathlib import Path

from mfa_train.errors import DataError
from mfa_train.scaling.runs import PARAMS_WITHIN, Run

COLUMNS = {
    "params": ("n", "params", "parameters", "num_params", "model size", "model_size"),
    "tokens": ("d", "tokens", "training tokens", "training_tokens", "num_tokens"),
    "loss": ("loss", "val_loss", "final_loss", "l"),
    "flops": ("c", "flops", "flop", "training flop", "training flops", "training_flops", "compute"),
    "variant": ("group", "variant", "attention"),
    "seed": ("seed",),
    "kv_bytes_per_token": ("kv_bytes_per_token", "kv_bytes", "kv"),
}


def read_points(path: Path) -> list[Run]:
    """A run for each row. Raises DataError naming file, line and column for what is no such table."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error
    if not rows:
        raise DataError(f"{path}: empty; expected a header as N,D,loss,group and a row for each run")
    header = [name.strip().lower() for name in rows[0]]
    at = {what: header.index(named[0]) for what, names in COLUMNS.items() if (named := [one for one in names if one in header])}
    for what, needed in (("parameters, as N", "params" in at), ("loss", "loss" in at),
                         ("tokens, as D (or of training FLOPs, as C)", {"tokens", "flops"} & set(at))):
        if not needed:
            raise DataError(
                f"{path}: no column of {what}, among {', '.join(rows[0])}; expected a header as N,D,loss,group"
            )
    runs = [_run(path, line, row, at) for line, row in enumerate(rows[1:], 2) if any(cell.strip() for cell in row)]
    smallest = 0.0
    for run in sorted((run for run in runs if run.excluded is None), key=lambda run: run.params):
        smallest = run.params if run.params > smallest * (1 + PARAMS_WITHIN) else smallest
        run.size = f"{smallest:.3g}"
    return runs


def _run(path: Path, line: int, row: list[str], at: dict[str, int]) -> Run:
    def cell(what: str) -> str | None:
        return row[at[what]].strip() or None if what in at and at[what] < len(row) else None

    def number(what: str) -> float | None:
        text = cell(what)
        try:
            value = 0.0 if text is None else float(text)
        except ValueError:
            raise DataError(f"{path}:{line}: {what} is {text!r}, expected a number") from None
        return value if 0 < value < math.inf else None

    values = {what: number(what) for what in ("params", "tokens", "loss", "flops", "kv_bytes_per_token")}
    run = Run(
        f"{path.stem}:{line}", f"{path}:{line}", variant=cell("variant") or path.stem, seed=cell("seed"), **values
    )
    for what in ("params", "loss", "flops" if cell("tokens") is None else "tokens"):
        if values[what] is None:
            run.excluded = f"its {what} is {cell(what)}, expected a number above 0"
            return run
    if run.tokens is None:
        run.tokens = run.flops / (6 * run.params)
    if run.seed is not None:
        run.order = (str(path), run.seed)
    run.attention = run.variant
    return run
