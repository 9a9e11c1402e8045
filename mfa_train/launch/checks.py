"""What is checked before a job is handed over, so that no queue is waited in vain. Each check raises ConfigError in one
line.

    1. The variant is matched, the batch divides over the ranks, the schedule fits, and so does the model; the devices
       can what is asked of them (training.before_start, as the run itself asks).
    2. The corpus is there, made with these settings, its tokens are the model's, and it is long enough.
    3. The checkpoint that resume names is there and is of this model and these data. (That of a ladder's branch comes
       later.)
    4. The run's folder holds no other run, nobody works in it, and it lies where all nodes see it, as far as that is
       declared (cluster.shared). A job itself says which node does not see it.

A run that has finished is no longer part of the job.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from mfa_train.config import ClusterConfig, Config, Member
from mfa_train.errors import ConfigError
from mfa_train.tracking.wandb_run import forget_run


def unfinished(members: Sequence[Member]) -> list[Member]:
    """Those that have something left to train. Raises ConfigError where a folder holds another run, or is in use."""
    return [member for member in members if not _finished(member.config)]


def _finished(config: Config) -> bool:
    if not config.run_dir.exists():
        return False
    from mfa_train.budget.match import matched
    from mfa_train.training.run_folder.folder import RunFolder

    folder = RunFolder(matched(config)[0])
    try:
        return folder.open() is not None
    finally:
        folder.lock.release()


def require_trainable(members: Sequence[Member]) -> None:
    """Raises ConfigError, which names the member, for the first that can't be trained on the cluster it asks for."""
    corpora, planned, launched = {}, set(), {member.config.run_dir for member in members}
    for member in members:
        try:
            if (alike := _what_is_planned(member.config)) not in planned:
                _require_plan(member.config)
            planned.add(alike)
            key = str(dataclasses.asdict(member.config.data))
            corpora[key] = corpora.get(key) or _opened(member.config)
            _require_startable(member.config, corpora[key], comes_later=member.after in launched)
            _require_shared(member.config)
        except ConfigError as error:
            if not member.swept:
                raise
            raise ConfigError(f"{member.label}: {error}") from error


def move_aside(members: Sequence[Member]) -> None:
    """With resume=never what is in the run folders is moved to NAME~1, NAME~2, …"""
    for config in (member.config for member in members if member.config.resume == "never"):
        from mfa_train.training.run_folder.folder import RunFolder

        forget_run(os.environ)  # which the job is started in
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
    from mfa_train.training.before_start import checked_plan

    checked_plan(*matched(config))


def _what_is_planned(config: Config) -> str:
    """Of a ladder's members, those that differ in steps and seed alone are planned once."""
    training = dataclasses.replace(config.training, steps=1, tokens=None)
    fits = 0 <= config.schedule.warmup_steps <= config.training.total_steps
    return str(
        (
            config.model,
            config.attention,
            config.match,
            config.plan,
            config.cluster,
            config.zero,
            config.offload,
            config.precision,
            training,
            fits,
            config.sample,
        )
    )


def _opened(config: Config) -> dict:
    from mfa_train.data.corpora import open_all, prepare_all

    data = config.data
    if data.source not in ("prepared", "mixture") and not (Path(data.path) / "manifest.json").is_file():
        raise ConfigError(
            f"data.path={data.path}: no prepared corpus is there, and the nodes of a cluster don't "
            "prepare one: type mfa-train prepare with the same overrides first"
        )
    prepare_all(data, lambda _: None)  # which finds it there, and holds it against the config
    return open_all(data)


def _require_startable(config: Config, corpora: dict, comes_later: bool) -> None:
    """`comes_later`: whether what it starts from is trained by this launch too."""
    from mfa_train.budget.match import matched
    from mfa_train.training.before_start import read_order
    from mfa_train.training.checkpoints.folders import manifest_of
    from mfa_train.training.resuming.starting_point import starting_point

    config, cluster = matched(config)[0], config.cluster
    batches, _ = read_order(config, corpora, 0, cluster.world_size, cluster.devices_per_node)
    if not comes_later:
        starting_point(config, config.run_dir, batches.identity(), lambda _: None, vouch=manifest_of)


def _require_shared(config: Config) -> None:
    shared = [Path(folder).absolute() for folder in config.cluster.shared]
    for key, path in (("runs_dir", config.runs_dir), ("data.path", config.data.path)):
        if shared and "://" not in path and not any(Path(path).absolute().is_relative_to(folder) for folder in shared):
            raise ConfigError(
                f"{key}={path}: not in a folder that all nodes share "
                f"(cluster.shared={','.join(map(str, shared))}): type "
                f"{key}={shared[0] / Path(path).name}"
            )
