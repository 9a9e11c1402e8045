"""`mfa-train compare`: the comparison, written into a folder and told at the terminal.

1. The runs are gathered and compared: fit.json.
2. Tables become CSV, pictures PNG and SVG, everything together index.html: beside an older report, whose place they
   take when all are whole.
3. The same goes to W&B, where it isn't turned off.
"""

import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mfa_train.config import TrackingConfig
from mfa_train.errors import ConfigError
from mfa_train.scaling.compare import compare
from mfa_train.scaling.report.page_file import page
from mfa_train.scaling.report.tables import tables, write_csv
from mfa_train.scaling.report.terminal import told, told_files, told_notices
from mfa_train.scaling.report.thinning import brief
from mfa_train.scaling.report.wandb_report import group_of, log_report
from mfa_train.scaling.study.gather import Study
from mfa_train.scaling.study.plain_files import shown
from mfa_train.tracking.terminal import say

UNFINISHED = ".report-"
"""What the folder of a report in the making is named by."""
OURS = (
    r"(runs|laws|law_differences|at_budgets|frontiers|loss_over_kv|loss_by_position|kv_at_equal_loss|verdicts|pairs|"
    r"evaluations)\.csv|"
    r"(laws|loss_over_(kv|compute)_(parameters|flops)|loss_over_(tokens|flops|seconds))\.(png|svg)"
)
"""Files of a report, beside fit.json and index.html."""
LARGEST_READ = 2**27


def write_report(
    study: Study, out: Path, tracking: TrackingConfig, reference: str | None = None, budgets: tuple[float, ...] = ()
) -> dict:
    """Compares the study and writes the report into `out`; returns what fit.json holds. Raises UserError."""
    _require_place(out, study.paths)
    result = compare(study, reference, budgets)
    made, cut = tables(result)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=out) as unfinished:
            beside = Path(unfinished)
            for name, rows in made.items():
                write_csv(beside / f"{name}.csv", rows, result["conventions"])
            pictures, without = _pictures(result, study, beside)
            result["files"] = [
                *(f"{name}.csv" for name in made),
                *(f"{picture.stem}.{suffix}" for picture in pictures for suffix in ("png", "svg")),
            ]
            html, on_page = page(result, study.runs)
            (beside / "index.html").write_text(html, encoding="utf-8")
            (beside / "fit.json").write_text(
                json.dumps(brief(result), indent=1, allow_nan=False) + "\n", encoding="utf-8"
            )
            _remove_older(out)
            for name in ("fit.json", "index.html", *result["files"]):  # fit.json first: by it a report is known for one
                (beside / name).replace(out / name)
        pictures = [out / picture.name for picture in pictures]
    except OSError as error:
        raise ConfigError(
            f"--out {shown(out, 300)}: cannot be written ({error.strerror}); type --out FOLDER with one that can"
        ) from error
    say(told(result))
    if notices := told_notices(result, str(out / "index.html")):
        say(notices)
    for line in told_files(
        result, on_page, brief(result), {name: (len(made[name]), many) for name, many in cut.items()}
    ):
        say(line)
    if without:
        say(without)
    of = f"{len(study.used)} of {len(study.runs)} runs"
    say(f"Report  {out / 'index.html'} (pairs, laws, curves of {of}; CSV and fit.json beside it)")
    if tracking.group is None:
        tracking.group = group_of(study.runs)
    log_report(tracking, out, result, made, pictures)
    return result


def _require_place(out: Path, inputs: Iterable[Path]) -> None:
    """Raises ConfigError where a report in `out` would take the place of anything but an older report."""
    told, another = f"--out {shown(out, 300)}", "type --out FOLDER with an empty or a new one"
    if "\0" in str(out):
        raise ConfigError(f"{told}: no name of a folder; {another}")
    try:
        if not out.is_dir():
            if out.exists() or out.is_symlink():
                raise ConfigError(f"{told}: is no folder; {another}")
            return
        if not _is_report(out / "fit.json") and any(not path.match(f"{UNFINISHED}*") for path in out.iterdir()):
            raise ConfigError(f"{told}: holds files that are no report; {another}")
        for path in out.iterdir():
            if path.name in ("fit.json", "index.html") or re.fullmatch(OURS, path.name):
                if path.is_dir():
                    raise ConfigError(
                        f"{told}: {path.name} in it is a folder, where the report has a file of that name; {another}"
                    )
                if any(one.exists() and path.samefile(one) for one in inputs):
                    raise ConfigError(f"{told}: {path.name} in it is what is to be compared; {another}")
    except OSError as error:
        raise ConfigError(f"{told}: cannot be looked into ({error.strerror}); {another}") from None


def _is_report(path: Path) -> bool:
    """Whether `path` begins as a fit.json does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return re.match(rb'\s*\{\s*"format"\s*:\s*\d+\s*,\s*"conventions"', file.read(200)) is not None


def _remove_older(out: Path) -> None:
    """Tables and pictures of the report that `out` holds, of which the new one may have fewer."""
    try:
        path = out / "fit.json"
        older = json.loads(path.read_text(encoding="utf-8"))["files"] if path.stat().st_size <= LARGEST_READ else []
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):  # an older version's, or edited
        return
    for name in map(str, older if isinstance(older, list) else []):
        if re.fullmatch(OURS, name):
            (out / name).unlink(missing_ok=True)


def _pictures(result: dict, study: Study, out: Path) -> tuple[list[Path], str]:
    try:
        from mfa_train.scaling.report.plots import write_plots
    except ImportError:
        return [], "no PNG and SVG: matplotlib is not installed; type pip install '.[plot]' (index.html draws its own)"
    return write_plots(result, study.runs, out), ""
