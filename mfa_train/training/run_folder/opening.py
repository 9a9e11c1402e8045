"""How a start of a run is written down: in starts.jsonl, and in W&B under the run's one identity."""

import dataclasses
from pathlib import Path
from typing import Any

from mfa_train.config import Config
from mfa_train.tracking.run_log import RunLog
from mfa_train.tracking.starts import add_start, starts, this_start
from mfa_train.training.processes.ranks import world_size
from mfa_train.training.resuming.resume_point import ResumePoint


def open_log(
    config: Config, folder: Path, plan: dict, point: ResumePoint | None, init_from: dict[str, Any] | None = None
) -> RunLog:
    """The log of the run in `folder`, which goes on from `point`, and a line in its starts.jsonl, with where its first
    weights came from. Rank 0 only."""
    before, from_step = starts(folder), point.step if point else 0
    this = this_start(from_step, point.accepted if point else [], world_size())
    if init_from:
        this["init_from"] = init_from
    plan = dataclasses.asdict(config.plan) | plan
    run_config = dataclasses.asdict(config) | {"plan": plan, "starts": [*before, this]}
    wandb_id = (wandb_identity(before) or {}).get("id")
    log = RunLog(config.tracking, folder, run_config, config.training.total_steps, from_step, wandb_id)
    add_start(folder, this | {"wandb": log.wandb_identity()})
    return log


def wandb_identity(before: list[dict]) -> dict | None:
    """id and address of the run in W&B that an earlier start of this run folder began."""
    known = (start["wandb"] for start in reversed(before) if isinstance(start.get("wandb"), dict))
    return next((one for one in known if isinstance(one.get("id"), str) and one["id"]), None)
