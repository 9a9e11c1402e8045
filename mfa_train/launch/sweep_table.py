"""How a sweep ends: a table of its members' losses, the command that compares them, and where to look at them.

    member    attention  cache bytes/token  parameters  tokens  held-out loss  state
    mha-280k  mha                      768     675,264   8,192         7.8002  finished
    mfa-280k  mfa                      192     666,096   8,192         7.8594  finished
    tpa-280k  tpa                        -           -       -              -  failed (exit status 2)

The largest models come first, of one size those of the most tokens, of these the lowest loss. Of hundreds of members
the table holds the MOST_ROWS first, and every one that failed.
"""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from mfa_train.columns import in_columns
from mfa_train.config import Member
from mfa_train.tracking.leet import RUNS
from mfa_train.tracking.records import number, read_object
from mfa_train.tracking.terminal import command_here

HEADER = ("member", "attention", "cache bytes/token", "parameters", "tokens", "held-out loss", "state")
WORDS = (0, 1, 6)
"""Columns that are no numbers."""
MOST_ROWS = 40
MOST_NAMED = 12
"""Runs that a command names one by one where their folder holds others too."""
FINISHED, FAILED, STOPPED, NOT_BEGUN = "finished", "failed", "stopped", "not begun"


def sweep_ending(members: Sequence[Member], states: Mapping[Path, str]) -> str:
    """The table and the commands, for a person. `states` says by run folder how each member ended: finished, stopped,
    not begun, or failed and how."""
    found = [(_summary(member.config.run_dir), member, states[member.config.run_dir]) for member in members]
    rows = sorted(found, key=lambda one: _place(*one))
    shown = rows[:MOST_ROWS] + [row for row in rows[MOST_ROWS:] if row[2].startswith(FAILED)]
    lines = in_columns([HEADER, *(_cells(*row) for row in shown)], WORDS)
    runs_dir = members[0].config.run_dir.parent
    if len(shown) < len(rows):
        status = f"{command_here('mfa-train')} status {shlex.quote(str(runs_dir))}"
        lines.append(f"and {len(rows) - len(shown):,} more, of smaller models or fewer tokens: {status}")
    finished = [member.config.run_dir for _, member, state in rows if state == FINISHED]
    if len(finished) > 1:
        lines += ["", f"Compare them  {command_here('mfa-train')} compare {_named(finished, members)}"]
    if (runs_dir / RUNS).is_dir():
        lines.append(f"W&B           {command_here('wandb')} leet {shlex.quote(str(runs_dir / RUNS))}")
    return "\n".join(lines)


def _summary(run_dir: Path) -> dict:
    """What summary.json holds; empty where there is none."""
    path = run_dir / "summary.json"
    try:
        return (read_object(path) if path.is_file() else None) or {}
    except OSError:
        return {}


def _place(summary: dict, member: Member, state: str) -> tuple:
    """The place of a row: by size, tokens, then loss."""
    model, training = member.config.model, member.config.training
    size = model.num_hidden_layers * model.hidden_size**2
    tokens = training.total_steps * training.batch_size * training.sequence_length
    loss = number(summary.get("val_loss"))
    return -size, -tokens, state != FINISHED, math.inf if loss is None else loss, member.config.name


def _cells(summary: dict, member: Member, state: str) -> tuple[str, ...]:
    def cell(key: str, form: str) -> str:
        return "-" if (value := number(summary.get(key))) is None else format(value, form)

    counts = (cell(key, ",") for key in ("kv_bytes_per_token", "params", "tokens"))
    return (member.config.name, member.config.attention["name"], *counts, cell("val_loss", ".4f"), state)


def _named(runs: list[Path], members: Sequence[Member]) -> str:
    """The runs as `compare` is given them: their folder where it holds no others, or where they are many."""
    runs_dir, own = runs[0].parent, {member.config.run_dir for member in members}
    others = sum(
        Path(entry.path, "config.yaml").is_file() for entry in os.scandir(runs_dir) if Path(entry.path) not in own
    )
    if any(run.parent != runs_dir for run in runs) or (others and len(runs) <= MOST_NAMED):
        return shlex.join(map(str, runs))
    return shlex.quote(str(runs_dir)) + (f"  (which holds {others} other runs as well)" if others else "")
