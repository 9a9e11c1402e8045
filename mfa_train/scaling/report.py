"""`mfa-train compare`: the comparison, written into a folder and told at the terminal.

    1. The runs are gathered and compared: fit.json.
    2. Tables become CSV, pictures PNG and SVG, everything together index.html: beside an older report, whose place they take
       when all are whole.
    3. The same goes to W&B, where it isn't turned off.
"""

import json
import re
import tempfile
from pathlib import Path

from mfa_train.config import TrackingConfig
from mfa_train.errors import ConfigError
from mfa_train.scaling.compare import compare
from mfa_train.scaling.page_file import page
from mfa_train.scaling.study import Study
from mfa_train.scaling.tables import tables, write_csv
from mfa_train.scaling.told import told
from mfa_train.scaling.wandb_report import group_of, log_report

NOTICES_TOLD = 12
UNFINISHED = ".report-"
"""What the folder of a report in the making is named by."""


def write_report(study: Study, out: Path, tracking: TrackingConfig, reference: str | None = None,
                 budgets: tuple[float, ...] = ()) -> dict:
    """Compares the study and writes the report into `out`; returns what fit.json holds. Raises UserError."""
    if not (out / "fit.json").is_file() and out.is_dir() and any(not path.match(f"{UNFINISHED}*") for path in out.iterdir()):
        raise ConfigError(f"--out {out}: holds files that are no report; type --out FOLDER with an empty or a new one")
    result = compare(study, reference, budgets)
    made = tables(result)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=out) as unfinished:
            beside = Path(unfinished)
            for name, rows in made.items():
                write_csv(beside / f"{name}.csv", rows, result["conventions"])
            pictures, without = _pictures(result, study, beside)
            result["files"] = [*(f"{name}.csv" for name in made),
                               *(f"{picture.stem}.{suffix}" for picture in pictures for suffix in ("png", "svg"))]
            (beside / "index.html").write_text(page(result, study.runs), encoding="utf-8")
            (beside / "fit.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            _remove_older(out)
            for name in ("fit.json", "index.html", *result["files"]):  # fit.json first: by it a report is known for one
                (beside / name).replace(out / name)
        pictures = [out / picture.name for picture in pictures]
    except OSError as error:
        raise ConfigError(
            f"--out {out}: cannot be written ({error.strerror}); type --out FOLDER with one that can"
        ) from error
    print(told(result))
    for notice in result["notices"][:NOTICES_TOLD]:
        print(f"notice: {notice}")
    if (more := len(result["notices"]) - NOTICES_TOLD) > 0:
        print(f"notice: {more} more in {out / 'index.html'}")
    if without:
        print(without)
    print(f"\nReport  {out / 'index.html'} ({len(study.used)} of {len(study.runs)} runs; fit.json beside it)")
    if tracking.group is None:
        tracking.group = group_of(study.runs)
    log_report(tracking, out, result, made, pictures)
    return result


def _remove_older(out: Path) -> None:
    """Tables and pictures of the report that `out` holds, of which the new one may have fewer."""
    try:
        older = json.loads((out / "fit.json").read_text(encoding="utf-8"))["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # an older version's, or edited
        return
    for name in map(str, older if isinstance(older, list) else []):
        if re.fullmatch(r"\w+\.(csv|png|svg)", name):
            (out / name).unlink(missing_ok=True)


def _pictures(result: dict, study: Study, out: Path) -> tuple[list[Path], str]:
    try:
        from mfa_train.scaling.plots import write_plots
    except ImportError:
        return [], "no PNG and SVG: matplotlib is not installed; type pip install '.[plot]' (index.html draws its own)"
    return write_plots(result, study.runs, out), ""
