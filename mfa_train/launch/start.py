"""`mfa-train launch`: what is typed becomes one run or a sweep, on this machine, through SLURM or over ssh.

What it does and what it costs is told first (`plans`). With --dry-run that, what would be started, and what would be
refused, by the same checks (`checks`); nothing starts.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from mfa_train.config import Member
from mfa_train.errors import ConfigError
from mfa_train.launch import local, slurm, ssh
from mfa_train.launch.checks import Checked, Checks, require_trainable
from mfa_train.launch.job import make_job
from mfa_train.launch.plans import brief
from mfa_train.launch.sweep import device_shares, run_sweep
from mfa_train.scaling.ladder import members as ladder
from mfa_train.tracking.terminal import say

AGAIN = (sys.executable, "-m", "mfa_train.cli", "launch")
REFUSED = 2
"""Exit status of a dry run of what would be refused, as that of a mistake in what was typed."""


def launch(overrides: Sequence[str], multirun: bool, dry_run: bool) -> int:
    """Starts it, or with `dry_run` tells what would be started; the exit status. Raises UserError."""
    members = ladder.members(overrides)
    _require_one_launch(members, multirun)
    launcher = members[0].config.cluster.launcher
    if dry_run:
        return _tell(launcher, members)
    if launcher == "slurm":
        return _submit(members)
    if members[0].swept:
        _say_brief([_planned(Checks(members), member) for member in members])
        run_sweep(members, AGAIN)
        return 0
    if launcher == "local":
        local.require_one_node(members[0])
        _say_brief([_planned(Checks(members), members[0])])  # all else its ranks check themselves
        return local.launch(members[0], make_job(members, Path.cwd()))
    ssh.require_way(members[0])
    [found] = require_trainable(members)
    if found.finished:
        say(f"{members[0].config.run_dir} holds this run, finished before. To train it again: resume=never")
        return 0
    _say_brief([found])
    return ssh.launch(members[0], make_job(members, Path.cwd()))


def _require_one_launch(members: Sequence[Member], multirun: bool) -> None:
    """Raises ConfigError for members that can't be launched together."""
    first = members[0]
    if first.swept and not multirun:
        raise ConfigError(f"{' '.join(first.swept)}, …: several values are a sweep; type -m as well")
    launchers = {member.config.cluster.launcher for member in members}
    if len(launchers) > 1:
        raise ConfigError(f"cluster={','.join(sorted(launchers))}: a sweep is launched one way: type one of them")
    if launchers == {"ssh"} and first.swept and (first.config.sweep.parallel or 1) > 1:
        raise ConfigError(
            "sweep.parallel: members of a sweep over ssh have all hosts, one after another: type sweep.parallel=1"
        )
    if launchers == {"slurm"}:
        for key, value in vars(first.config.cluster).items():
            if other := [one for member in members if (one := getattr(member.config.cluster, key)) != value]:
                raise ConfigError(
                    f"cluster.{key}={value},{other[0]}: one for all members of a job array: launch a sweep for each"
                )


def _submit(members: list[Member]) -> int:
    slurm.require_sbatch()
    found = require_trainable(members)
    for one in found:
        if one.finished:
            _say_finished(one.member)
    if not (left := [one for one in found if not one.finished]):
        return 0
    submitted = slurm.submissions([one.member for one in left], Path.cwd())
    _say_brief(left)
    say(slurm.told(submitted, slurm.launch(submitted)))
    return 0


def _planned(checks: Checks, member: Member) -> Checked:
    found = Checked(member)
    checks.plan(found)
    return found


def _say_brief(found: Sequence[Checked]) -> None:
    """Of those that have a plan."""
    planned = [(one.member, one.plan) for one in found if one.plan]
    if planned:
        members, plans = zip(*planned)
        say(brief(members, plans) + "\n")


def _say_finished(member: Member) -> None:
    say(f"{member.config.run_dir}: finished before{'' if member.swept else '. To train it again: resume=never'}")


def _tell(launcher: str, members: list[Member]) -> int:
    checks = Checks(members)
    found = [checks.of(member) for member in members]
    _say_brief(found)
    for one in found:
        if one.finished:
            _say_finished(one.member)
    left = [one for one in found if not one.finished]
    if launcher == "slurm":
        _tell_slurm(left)
    else:
        if left and (parallel := left[0].member.config.sweep.parallel or 1) > 1:
            try:
                device_shares(left[0].member, parallel)
            except ConfigError as error:  # of the sweep, not of a member
                left[0].refusals.append(error)
        for one in left:
            way = local if launcher == "local" else ssh
            with one.asking():
                if launcher == "ssh":
                    ssh.require_way(one.member)
                elif not one.member.swept:
                    local.require_one_node(one.member)
                say(
                    f"=== {one.member.config.run_dir}\n{way.describe(one.member, make_job([one.member], Path.cwd()))}\n"
                )
    refusals = dict.fromkeys(str(refusal) for one in left for refusal in one.refusals)
    for refusal in refusals:
        say(f"would be refused: {refusal}")
    later = [*(line for one in left for line in one.later), *UNASKED[launcher]]
    for line in dict.fromkeys(later):
        say(f"not looked at: {line}")
    if not refusals:
        say("all else was looked at, as a launch does: nothing would be refused")
    return REFUSED if refusals else 0


UNASKED = {
    "local": (),
    "slurm": (
        "what the scheduler says to it (account, partition, limits), and what each node sees when the job starts",
    ),
    "ssh": ("the hosts: whether each is reached, has the same versions, clock, GPUs and folders, and a free port",),
}
"""By launcher: what only the launch itself can ask."""


def _tell_slurm(left: Sequence[Checked]) -> None:
    if not left:
        return
    submitted: list[slurm.Submission] = []
    with left[0].asking():
        slurm.job_script(left[0].member)
    with left[0].asking():
        slurm.require_sbatch()
    with left[0].asking():
        submitted = slurm.submissions([one.member for one in left], Path.cwd())
        say(f"{slurm.describe(submitted)}\n")
        slurm.require_idle(submitted)
