"""Points of a scaling study from anywhere: a CSV with a row for each trained model.

Columns, by any of these names in any case, the first that is there: the number of parameters, the tokens, the loss;
and, if known, training FLOPs, variant, seed, KV bytes per token. Where tokens are missing they are C / 6N. No number
but one above zero is known: a row without one of the first three takes no part. Rows whose parameters are within 2% are
of one size. Columns end with commas, or with semicolons or tabs where the header does. Other columns are not read, and
that is said (unused_columns.py).
"""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from mfa_train.errors import DataError
from mfa_train.scaling.study.plain_files import one_line, shown
from mfa_train.scaling.study.runs import BOUNDS, PARAMS_WITHIN, DataOrder, Run, beyond
from mfa_train.scaling.study.unused_columns import UnusedColumns

COLUMNS = {
    "params": ("n", "params", "parameters", "num_params", "model size", "model_size"),
    "tokens": ("d", "tokens", "training tokens", "training_tokens", "num_tokens"),
    "loss": ("loss", "val_loss", "final_loss", "l"),
    "flops": ("c", "flops", "flop", "training flop", "training flops", "training_flops", "compute"),
    "variant": ("group", "variant", "attention"),
    "seed": ("seed",),
    "kv_bytes_per_token": ("kv_bytes_per_token", "kv_bytes", "kv"),
}
MOST_COLUMNS = 1_000
LONGEST_LINE = 2**16
MOST_ROWS = 1_000_000
"""More would need more memory than they are worth: about 1.5 KB a row."""


def read_points(path: Path, notices: list[str]) -> list[Run]:
    """A run for each row; what is to be said of the table's columns is added to `notices`. Raises DataError naming
    file, line and column for what is no such table, OSError where it can't be read."""
    runs: list[Run] = []
    rows = _rows(path)
    line, header = next(rows, (1, []))
    if not any(header):
        raise DataError(f"{_shown(path)}: empty; expected a header as N,D,loss,group and a row for each run")
    at, source = _columns(path, line, header), _shown(path)
    unused = UnusedColumns(header, at.values())
    for line, row in rows:
        if len(runs) == MOST_ROWS:
            raise DataError(
                f"{_shown(path)}:{line}: more than {MOST_ROWS:,} rows; leave out some of them: 6,000 are as good"
            )
        if any(cell.strip() for cell in row):
            runs.append(_run(path, line, row, at, source))
            unused.look_at(row)
    notices += [f"{source}: {notice}" for notice in unused.notices(at)]
    _name_sizes(runs)
    return runs


def _name_sizes(runs: list[Run]) -> None:
    """A size is named after the smallest model of it."""
    usable = [(run.params, run) for run in runs if run.excluded is None and run.params is not None]
    smallest = 0.0
    for params, run in sorted(usable, key=lambda one: one[0]):
        smallest = params if params > smallest * (1 + PARAMS_WITHIN) else smallest
        run.size = f"{smallest:.3g}"


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row and the line that it ends at."""
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = _lines(path, file)
        first = next(lines, "")
        delimiter = max(",;\t", key=first.count)
        reader = csv.reader(_both(first, lines), delimiter=delimiter)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(
                    f"{_shown(path)}:{reader.line_num}: cannot be read as CSV ({one_line(error)})"
                ) from None
            yield reader.line_num, row


def _both(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _lines(path: Path, file) -> Iterator[str]:
    """Raises DataError for what is no text of lines."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise DataError(
                f"{_shown(path)}:{number}: a line of {LONGEST_LINE:,} characters and more; expected a row for each run"
            )
        if "\0" in line or (not line.isascii() and any("\udc80" <= sign <= "\udcff" for sign in line)):
            raise DataError(f"{_shown(path)}:{number}: not text in UTF-8; save the table as CSV in UTF-8")
        yield line


def _columns(path: Path, line: int, header: list[str]) -> dict[str, int]:
    """Where in a row which number stands."""
    if len(header) > MOST_COLUMNS:
        raise DataError(f"{_shown(path)}:{line}: {len(header):,} columns, expected a header as N,D,loss,group")
    names = [name.strip().lower() for name in header]
    at = {
        what: names.index(named[0])
        for what, known in COLUMNS.items()
        if (named := [one for one in known if one in names])
    }
    for what, needed in (
        ("parameters, as N", "params" in at),
        ("loss", "loss" in at),
        ("tokens, as D (or of training FLOPs, as C)", {"tokens", "flops"} & set(at)),
    ):
        if not needed:
            given = shown(", ".join(header), 200)
            raise DataError(f"{_shown(path)}: no column of {what}, among {given}; expected a header as N,D,loss,group")
    for place in at.values():
        if names.count(names[place]) > 1:
            raise DataError(
                f"{_shown(path)}:{line}: two columns are named {shown(header[place].strip())}; leave one of them"
            )
    return at


def _run(path: Path, line: int, row: list[str], at: dict[str, int], source: str) -> Run:
    def cell(what: str) -> str | None:
        return row[at[what]].strip() or None if what in at and at[what] < len(row) else None

    def count(what: str) -> float | None:
        text = cell(what)
        try:
            value = 0.0 if text is None else float(text)
        except ValueError:
            raise DataError(f"{source}:{line}: {what} is '{shown(text)}', expected a number") from None
        return value if 0 < value < math.inf else None

    variant, seed = shown(cell("variant") or path.stem), cell("seed")
    run = Run(
        f"{shown(path.stem)}:{line}",
        f"{source}:{line}",
        attention=variant,
        variant=variant,
        params=count("params"),
        tokens=count("tokens"),
        loss=count("loss"),
        flops=count("flops"),
        kv_bytes_per_token=count("kv_bytes_per_token"),
        seed=seed and shown(seed),
    )
    for what in ("params", "loss", "flops" if cell("tokens") is None else "tokens"):
        if getattr(run, what) is None:
            run.excluded = f"its {what} is {shown(cell(what))}, expected a number above 0"
            return run
    if run.tokens is None and run.flops and run.params:
        run.tokens = run.flops / (6 * run.params)
    run.excluded = next(filter(None, (beyond(what, getattr(run, what)) for what in BOUNDS)), None)
    if run.seed is not None:
        run.order = DataOrder(source, None, run.seed, None)
    return run


def _shown(path: Path) -> str:
    return shown(path, 4096)
