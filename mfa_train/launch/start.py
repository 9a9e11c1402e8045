"""`mfa-train launch`: what is typed becomes one run or a sweep, on this machine, through SLURM or over ssh."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mfa_train.config import Member
from mfa_train.errors import ConfigError
from mfa_train.launch import local, slurm, ssh
from mfa_train.launch.checks import unfinished
from mfa_train.launch.job import make_job
from mfa_train.launch.sweep import run_sweep
from mfa_train.scaling.ladder import members as ladder

AGAIN = (sys.executable, "-m", "mfa_train.cli", "launch")


def launch(overrides: Sequence[str], multirun: bool, dry_run: bool) -> int:
    """Starts it, or with `dry_run` prints what would be started; the exit status. Raises UserError."""
    members = ladder.members(overrides)
    if members[0].swept and not multirun:
        raise ConfigError(f"{' '.join(members[0].swept)}, …: several values are a sweep; type -m as well")
    launchers = {member.config.cluster.launcher for member in members}
    if len(launchers) > 1:
        raise ConfigError(f"cluster={','.join(sorted(launchers))}: a sweep is launched one way: type one of them")
    launcher = launchers.pop()
    if launcher == "slurm":
        return _submit(members, dry_run)
    way = local if launcher == "local" else ssh
    if not dry_run and members[0].swept:
        if launcher == "ssh" and (members[0].config.sweep.parallel or 1) > 1:
            raise ConfigError(
                "sweep.parallel: members of a sweep over ssh have all hosts, one after another: type sweep.parallel=1"
            )
        run_sweep(members, AGAIN)
        return 0
    if launcher == "local":
        local.require_one_node(members[0])
    if not dry_run:
        return way.launch(members[0], make_job(members, Path.cwd()))
    for member in members:
        print(f"=== {member.config.run_dir}\n{way.describe(member, make_job([member], Path.cwd()))}")
    return 0


def _submit(members: list[Member], dry_run: bool) -> int:
    for key, value in vars(members[0].config.cluster).items():
        if other := [one for member in members if (one := getattr(member.config.cluster, key)) != value]:
            raise ConfigError(
                f"cluster.{key}={value},{other[0]}: one for all members of a job array: launch a sweep for each"
            )
    left = members if dry_run else unfinished(members)
    for member in members:
        if member not in left:
            print(
                f"{member.config.run_dir}: finished before"
                + ("" if member.swept else ". To train it again: resume=never")
            )
    if not left:
        return 0
    submitted = slurm.submissions(left, Path.cwd())
    print(slurm.describe(submitted) if dry_run else slurm.told(submitted, slurm.launch(submitted)))
    return 0
