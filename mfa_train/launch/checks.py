"""What is checked before a job is handed over, so that no queue is waited in vain. Each check raises ConfigError in one
line.

    1. The variant is matched, the batch divides over the ranks, the schedule fits, and so does the model (budget.plan).
    2. The corpus is there, made with these settings, and its tokens are the model's.
    3. The run's folder holds no other run, nobody works in it, and it lies where all nodes see it, as far as that is
       declared (cluster.shared). A job itself says which node does not see it.

A run that has finished is no longer part of the job.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mfa_train.config import ClusterConfig, Config, Member
from mfa_train.errors import ConfigError


def unfinished(members: Sequence[Member]) -> list[Member]:
    """Those that have something left to train. Raises ConfigError where a folder holds another run, or is in use."""
    return [member for member in members if not _finished(member.config)]


def _finished(config: Config) -> bool:
    if not config.run_dir.exists():
        return False
    from mfa_train.budget.match import matched
    from mfa_train.training.run_folder import RunFolder

    folder = RunFolder(matched(config)[0])
    try:
        return folder.open() is not None
    finally:
        folder.lock.release()


def require_trainable(members: Sequence[Member]) -> None:
    """Raises ConfigError, which names the member, for the first that can't be trained on the cluster it asks for."""
    from mfa_train.training.schedule import check_schedule

    corpora, planned = {}, set()
    for member in members:
        try:
            check_schedule(member.config.schedule, member.config.training.total_steps)
            if (alike := _what_is_planned(member.config)) not in planned:
                _require_plan(member.config)
            planned.add(alike)
            key = str(dataclasses.asdict(member.config.data))
            corpora[key] = corpora.get(key) or _opened(member.config)
            _require_readable(member.config, corpora[key])
            _require_shared(member.config)
        except ConfigError as error:
            raise ConfigError(f"{member.label}: {error}") from error if member.swept else error


def move_aside(members: Sequence[Member]) -> None:
    """With resume=never what is in the run folders is moved to NAME~1, NAME~2, …"""
    for config in (member.config for member in members if member.config.resume == "never"):
        from mfa_train.training.run_folder import RunFolder

        folder = RunFolder(config)
        folder.open()
        folder.move_aside()
        folder.lock.release()


def on_gpus(cluster: ClusterConfig) -> bool:
    """Whether the cluster's devices are GPUs; with device=auto, whether this machine's are."""
    if cluster.device != "auto":
        return cluster.device != "cpu"
    from mfa_train.budget.devices import planned_device

    return planned_device("auto", 1).type == "cuda"


def _require_plan(config: Config) -> None:
    from mfa_train.budget.match import matched
    from mfa_train.budget.plan import make_plan, require_fit

    config, match = matched(config)
    plan = make_plan(config, match=match)
    if config.plan.check:
        require_fit(config, plan["memory"])


def _what_is_planned(config: Config) -> str:
    """Of a ladder's members, those that differ in steps and seed alone are planned once."""
    training = dataclasses.replace(config.training, steps=1, tokens=None)
    return str((config.model, config.attention, config.match, config.plan, config.cluster, config.zero, config.offload,
                config.precision, training))


def _opened(config: Config) -> dict:
    from mfa_train.data.corpora import open_all, prepare_all

    data = config.data
    if data.source not in ("prepared", "mixture") and not (Path(data.path) / "manifest.json").is_file():
        raise ConfigError(f"data.path={data.path}: no prepared corpus is there, and the nodes of a cluster don't "
                          "prepare one: type mfa-train prepare with the same overrides first")
    prepare_all(data, lambda _: None)  # which finds it there, and holds it against the config
    return open_all(data)


def _require_readable(config: Config, corpora: dict) -> None:
    from mfa_train.data.corpora import require_readable

    require_readable(config, corpora)


def _require_shared(config: Config) -> None:
    shared = [Path(folder).absolute() for folder in config.cluster.shared]
    for key, path in (("runs_dir", config.runs_dir), ("data.path", config.data.path)):
        if shared and "://" not in path and not any(Path(path).absolute().is_relative_to(folder) for folder in shared):
            raise ConfigError(f"{key}={path}: not in a folder that all nodes share "
                              f"(cluster.shared={','.join(map(str, shared))}): type "
                              f"{key}={shared[0] / Path(path).name}")
