"""`mfa-train launch`: what is typed becomes one run or a sweep, on this machine, through SLURM or over ssh.

What would be refused is refused first (`checks`), and what it does and what it costs is told (`plans`). With --dry-run
what would be started, then that, and each refusal, by the same checks; nothing starts.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mfa_train.config import Member
from mfa_train.errors import ConfigError
from mfa_train.launch import local, slurm, ssh
from mfa_train.launch.checks import Checked, Checks, require_trainable
from mfa_train.launch.devices import is_decided
from mfa_train.launch.job import make_job
from mfa_train.launch.plans import brief
from mfa_train.launch.sweep import device_shares, run_sweep
from mfa_train.scaling.ladder import members as ladder
from mfa_train.tracking.terminal import say, wrapped
from mfa_train.training.processes.device_kind import CPU, prepare_environment
from mfa_train.words import first_few

AGAIN = (sys.executable, "-m", "mfa_train.cli", "launch")
REFUSED = 2
"""Exit status of a dry run of what would be refused, as that of a mistake in what was typed."""


def launch(overrides: Sequence[str], multirun: bool, dry_run: bool) -> int:
    """Starts it, or with `dry_run` tells what would be started; the exit status. Raises UserError."""
    members = ladder.members(overrides, say=_say_wrapped)
    _require_one_launch(members, multirun)
    launcher = members[0].config.cluster.launcher
    if dry_run:
        return _tell(launcher, members)
    if launcher == "slurm":
        return _submit(members)
    if launcher == "local":
        for member in members:
            local.require_one_node(member)
            local.require_devices(member)
        if all(member.config.cluster.device == CPU for member in members):
            prepare_environment(CPU)  # a single rank is this process, and may look at GPUs while it is checked
    if members[0].swept:
        _say_brief(require_trainable(members))
        run_sweep(members, AGAIN)
        return 0
    if launcher == "local":
        _say_brief(require_trainable(members))  # a run that has finished says so itself
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
            say(_finished(one.member))
    if not (left := [one for one in found if not one.finished]):
        return 0
    submitted = slurm.submissions([one.member for one in left], Path.cwd())
    _say_brief(left)
    say(slurm.told(submitted, slurm.launch(submitted)))
    return 0


def _say_brief(found: Sequence[Checked]) -> None:
    """Of those that have a plan."""
    planned = [(one.member, one.plan) for one in found if one.plan]
    if planned:
        members, plans = zip(*planned)
        say(brief(members, plans) + "\n")


def _finished(member: Member) -> str:
    return f"{member.config.run_dir}: finished before{'' if member.swept else '. To train it again: resume=never'}"


def _say_wrapped(sentence: str) -> None:
    say(wrapped(sentence))


def _tell(launcher: str, members: list[Member]) -> int:
    """What is read, the plan and the refusals, comes last."""
    checks = Checks(members)
    found = [checks.of(member) for member in members]
    left = [one for one in found if not one.finished]
    for line in first_few([_finished(one.member) for one in found if one.finished]):
        say(line)
    refused = (_tell_slurm if launcher == "slurm" else _tell_runs)(left)
    _say_brief(left)
    _say_no_plan(left)
    refusals = [*_refusals_of(left), *refused]
    for refusal in refusals:
        _say_wrapped(f"would be refused: {refusal}")
    later = dict.fromkeys(line for one in left for line in one.later)
    for line in [*first_few(list(later)), *UNASKED[launcher]]:
        _say_wrapped(f"not looked at: {line}")
    if not refusals:
        say("all else was looked at, as a launch does: nothing would be refused")
    return REFUSED if refusals else 0


def _say_no_plan(left: Sequence[Checked]) -> None:
    """Of those for which none can be made, why it can't of the first."""
    if without := [one for one in left if one.no_plan]:
        first, more = without[0], len(without) - 1
        which = f" of {first.member.label}{f' and {more} more' if more else ''}" if first.member.swept else ""
        refused = str(first.no_plan) in map(str, first.refusals)
        _say_wrapped(f"no plan{which}: {'for what is refused below' if refused else first.no_plan}")


def _refusals_of(left: Sequence[Checked]) -> list[str]:
    """Each once, with the first member that it is of and how many more."""
    labels: dict[str, list[str]] = {}
    for one in left:
        for refusal in one.refusals:
            labels.setdefault(str(refusal), []).append(one.member.label)
    if not left or not left[0].member.swept:
        return list(labels)
    return [f"{of[0]}{f' and {len(of) - 1} more' if len(of) > 1 else ''}: {refusal}" for refusal, of in labels.items()]


UNASKED = {
    "local": (),
    "slurm": (
        "what the scheduler says to it (account, partition, limits), and what each node sees when the job starts",
    ),
    "ssh": ("the hosts: whether each is reached, has the same versions, clock, GPUs and folders, and a free port",),
}
"""By launcher: what only the launch itself can ask."""


@contextlib.contextmanager
def _refused_into(refusals: list[str]) -> Iterator[None]:
    """A ConfigError in the block is a refusal of the launch, not of one of its members."""
    try:
        yield
    except ConfigError as error:
        refusals.append(str(error))


def _tell_runs(left: Sequence[Checked]) -> list[str]:
    """What would be started here or over ssh; what all of it would be refused for."""
    refusals: list[str] = []
    if left and (parallel := left[0].member.config.sweep.parallel or 1) > 1:
        with _refused_into(refusals):
            device_shares(left[0].member, parallel)
    described = []
    for one in left:
        member = one.member
        way = ssh if member.config.cluster.launcher == "ssh" else local
        with one.asking():
            if way is ssh:
                ssh.require_way(member)
            else:
                local.require_one_node(member)
                local.require_devices(member)
        if not is_decided(member.config.cluster):
            continue  # which is told with the plan's
        with one.asking():  # what would run is told beside what it would be refused for
            told = way.describe(member, make_job([member], Path.cwd()))
            described.append(f"=== {member.config.run_dir}\n{told}\n")
    for told in first_few(described):
        say(told)
    return refusals


def _tell_slurm(left: Sequence[Checked]) -> list[str]:
    """What would be submitted; what all of it would be refused for."""
    refusals: list[str] = []
    if not left:
        return refusals
    with _refused_into(refusals):
        slurm.job_script(left[0].member)
    with _refused_into(refusals):
        slurm.require_sbatch()
    if not is_decided(left[0].member.config.cluster):
        return refusals  # what would be submitted isn't known either
    with _refused_into(refusals):
        submitted = slurm.submissions([one.member for one in left], Path.cwd())
        say(f"{slurm.describe(submitted)}\n")
        slurm.require_idle(submitted)
    return list(dict.fromkeys(refusals))
