"""What `wandb leet`, W&B's dashboard in the terminal, opens with: the losses, and the runs of a folder by their names.

leet draws a run's metrics in the order of the alphabet, so that train/loss and val/loss come last, and lists runs by
their folders, which W&B names after a date. It keeps what was last looked at in `.wandb-leet.json` beside those folders
(since wandb 0.31; older versions don't read it). Before anyone has looked, that file is written here, with a filter for
the losses; ctrl+/ shows the other metrics.

    RUN/wandb/.wandb-leet.json                            one run:   wandb leet RUN/wandb/latest-run
    RUNS_DIR/.wandb/run-NAME.run-DATE-ID -> the W&B run   all runs:  wandb leet RUNS_DIR/.wandb

Nothing depends on it: whatever cannot be written is left out.
"""

import contextlib
import json
import os
import re
from pathlib import Path

from mfa_train.tracking.records import read_object

STATE = ".wandb-leet.json"
LOSSES = "loss|bits_per_byte"
"""A regular expression of the metrics that are drawn first."""
RUNS = ".wandb"
"""The folder beside the runs that lists them for leet: a name that it looks for itself, and `runs/*` passes over."""
MOST_SELECTED = 12
"""Runs drawn at once; the newest."""
DATED = re.compile(r"run-\d{8}_\d{6}-.+")
"""What leet finds W&B's id of a run by, wherever it stands in a folder's name."""


def show_losses_first(run_dir: Path, wandb_run: Path) -> None:
    """Makes leet open with the losses of the run in `run_dir`, whose folder of W&B's own is `wandb_run`: of it alone,
    and among the runs beside it."""
    with contextlib.suppress(OSError):
        _write_state(wandb_run.parent, [])
        dated = DATED.search(wandb_run.name)
        if dated is None:
            return
        folder = run_dir.parent / RUNS
        folder.mkdir(exist_ok=True)
        this_run = f"run-{run_dir.name}."
        name = this_run + dated[0]
        for link in folder.iterdir():
            earlier = link.name.startswith(this_run) and DATED.match(link.name[len(this_run) :])
            if link.is_symlink() and (earlier or not link.exists()):
                link.unlink()
        (folder / name).symlink_to(os.path.relpath(wandb_run, folder))
        _write_state(folder, [name])


def _write_state(folder: Path, started: list[str]) -> None:
    """Begins a folder's state with a filter for the losses, and selects the links of the runs that `started`; all else
    stays as it was last looked at."""
    path = folder / STATE
    state = read_object(path) if path.is_file() else {"metrics_filter": {"query": LOSSES}}
    if state is None or (path.is_file() and not started):
        return
    selected = state.get("selected_runs")
    there = [name for name in selected if isinstance(name, str)] if isinstance(selected, list) else []
    there = [name for name in there if name not in started and os.path.lexists(folder / name)]
    if started:
        state |= {"selected_runs": [*there, *started][-MOST_SELECTED:], "latest_run": started[-1]}
    beside = path.with_name(f"{STATE}.{os.getpid()}")
    beside.write_text(json.dumps(state, indent=2), encoding="utf-8")
    os.replace(beside, path)
