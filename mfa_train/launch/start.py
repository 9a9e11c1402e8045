"""`mfa-train launch`: what is typed becomes one run or a sweep, on this machine, through SLURM or over ssh."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mfa_train.config import Member
from mfa_train.errors import ConfigError
from mfa_train.launch import local, slurm, ssh
from mfa_train.launch.checks import require_trainable, unfinished
from mfa_train.launch.job import make_job
from mfa_train.launch.sweep import run_sweep
from mfa_train.scaling import ladder

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
            raise ConfigError("sweep.parallel: members of a sweep over ssh have all hosts, one after another: type "
                              "sweep.parallel=1")
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
    asked = {(member.config.cluster.nodes, member.config.cluster.devices_per_node) for member in members}
    if len(asked) > 1:
        raise ConfigError("cluster.nodes and cluster.devices_per_node are one for all members of a job array: launch a "
                          "sweep for each")
    left = members if dry_run else unfinished(members)
    for member in members:
        if member not in left:
            print(f"{member.config.run_dir}: finished before" + ("" if member.swept else ". To train it again: "
                                                                                         "resume=never"))
    if not left:
        return 0
    if not dry_run:
        require_trainable(left)
    number = None
    for part, name in (([member for member in left if member.after is None], ""),
                       ([member for member in left if member.after is not None], "-branches")):
        if not part:
            continue
        job = make_job(part, Path.cwd(), name)
        if dry_run:
            print(slurm.describe(part, job, number))
            number = "JOB"
        else:
            number = slurm.launch(part, job, number)
            print(slurm.told(part, job, number))
    return 0
