"""What is checked before a job is handed over, so that no queue is waited in vain. A launch raises the first refusal,
`--dry-run` tells them all: both go through the same list.

    1. The job's devices are named, where they are not this machine's. The variant is matched, the batch divides over
       the ranks, the schedule fits, and so does the model; the devices can what is asked of them
       (training.before_start, as the run itself asks).
    2. The tasks that it is scored on are there, where it is (evaluation.every_steps).
    3. The corpus is there, made with these settings, its tokens are the model's, and it is long enough.
    4. The checkpoint that resume names is there and is of this model and these data. (That of a ladder's branch comes
       later.) The weights that init_from names are those of this model, and their ids mean what the corpus's do.
    5. The run's folder holds no other run, nobody works in it, and it lies where all nodes see it, as far as that is
       declared (cluster.shared). A job itself says which node does not see it.

A run that has finished is no longer part of the job.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mfa_train.config import Config, Member
from mfa_train.data.corpus import Corpus
from mfa_train.data.shards.cache import is_url
from mfa_train.errors import ConfigError, DataError, UserError
from mfa_train.launch.devices import kind_of
from mfa_train.tracking.wandb_run import forget_run


@dataclass
class Checked:
    """What is found out about one member."""

    member: Member
    plan: dict | None = None
    no_plan: str | None = None
    """Why none can be made."""
    finished: bool = False
    """Before: then nothing else is asked."""
    refusals: list[UserError] = field(default_factory=list)
    """In the words of a run alone, which don't name the member."""
    later: list[str] = field(default_factory=list)
    """What can't be known before the run is there."""

    @contextlib.contextmanager
    def asking(self, unless_refused: bool = False) -> Iterator[None]:
        """A ConfigError in the block is a refusal, and a DataError, as of a corpus out of reach. `unless_refused`: not
        where there is one already, from which it follows."""
        try:
            yield
        except (ConfigError, DataError) as error:
            if unless_refused and self.refusals:
                return
            self.refusals.append(error)

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """A ConfigError in the block, which goes on, is why there is no plan."""
        try:
            yield
        except ConfigError as error:
            self.no_plan = str(error)
            raise

    def refuse(self) -> None:
        """Raises the first refusal, where there is one; that of a sweep's member names it."""
        for error in self.refusals:
            raise type(error)(f"{self.member.label}: {error}") if self.member.swept else error


class Checks:
    """Of the members of one launch; what several of them share is looked at once."""

    def __init__(self, members: Sequence[Member]):
        self.launched = {member.config.run_dir for member in members}
        self.planned: dict[str, Checked] = {}
        self.corpora: dict[str, dict[str, Corpus] | UserError] = {}
        """Or why they can't be opened."""
        self.scored: set[str] = set()
        """Tasks that were found to be there."""

    def of(self, member: Member) -> Checked:
        """Held against the whole list."""
        found, config = Checked(member), member.config
        with found.asking():
            found.finished = _finished(config)
        if found.finished:
            return found
        self.plan(found)
        with found.asking():
            self._require_tasks(config)
        opened = None
        if _comes_with_the_run(config):
            found.later.append(f"{config.data.path} is prepared when the run starts, and held against the model then")
        else:
            with found.asking():
                opened = self._opened(config)
        for path in _far_corpora(config):
            found.later.append(
                f"{path} beyond its manifest and tokenizer: what is fetched is held against its checksum"
            )
        if comes_later := member.after in self.launched:
            found.later.append(f"{config.resume} comes from a run of this launch")
        if opened is not None:
            with found.asking():
                _require_startable(config, opened, comes_later)
        if config.checkpoint.upload is not None:
            found.later.append(f"{config.checkpoint.upload} is written to as a trial when the run starts")
            with found.asking(unless_refused=True):
                _require_place_in_storage(config)
        with found.asking(unless_refused=True):
            _require_source(config, opened)
        with found.asking():
            _require_shared(config)
        return found

    def plan(self, found: Checked) -> None:
        """The first of the list alone. A plan of what would be refused is told all the same, where it can be made."""
        key = _what_is_planned(found.member.config)
        if key not in self.planned:
            self.planned[key] = _planned(found.member)
        alike = self.planned[key]
        found.plan, found.no_plan = alike.plan, alike.no_plan
        found.refusals += alike.refusals

    def _require_tasks(self, config: Config) -> None:
        key = str((config.evaluation, config.training.stages))
        if config.evaluation.every_steps is not None and key not in self.scored:
            from mfa_train.training.before_start import checked_tasks

            checked_tasks(config)
            self.scored.add(key)

    def _opened(self, config: Config) -> dict[str, Corpus]:
        key = str(dataclasses.asdict(config.data))
        if key not in self.corpora:
            try:
                self.corpora[key] = _opened(config)
            except (ConfigError, DataError) as error:
                self.corpora[key] = error
        found = self.corpora[key]
        if isinstance(found, UserError):
            raise found
        return found


def unfinished(members: Sequence[Member]) -> list[Member]:
    """Those that have something left to train. Raises ConfigError where a folder holds another run, or is in use."""
    return [member for member in members if not _finished(member.config)]


def require_trainable(members: Sequence[Member]) -> list[Checked]:
    """Raises UserError, which names the member, for the first that can't be trained on the cluster it asks for."""
    checks, found = Checks(members), []
    for member in members:
        found.append(checks.of(member))
        found[-1].refuse()
    return found


def move_aside(members: Sequence[Member]) -> None:
    """With resume=never what is in the run folders is moved to NAME~1, NAME~2, …"""
    for config in (member.config for member in members if member.config.resume == "never"):
        from mfa_train.training.run_folder.folder import RunFolder

        forget_run(os.environ)  # which the job is started in
        folder = RunFolder(config)
        folder.open()
        folder.move_aside()
        folder.lock.release()


def _finished(config: Config) -> bool:
    """Raises ConfigError where the folder holds another run, or is in use."""
    if not config.run_dir.exists():
        return False
    from mfa_train.budget.match import matched
    from mfa_train.training.run_folder.folder import RunFolder

    folder = RunFolder(matched(config)[0])
    try:
        return folder.open() is not None
    finally:
        folder.lock.release()


def _planned(member: Member) -> Checked:
    from mfa_train.budget.match import matched
    from mfa_train.budget.nearer import notes_of_match
    from mfa_train.budget.plan import make_plan
    from mfa_train.training.before_start import checks_before_plan, checks_of_plan

    found = Checked(member)
    with found.asking(), found.planning():
        kind_of(member.config.cluster)
    with found.asking():
        with found.planning():
            config, match = matched(member.config)
        for check in checks_before_plan(config):
            with found.asking():
                check()
        with found.asking(unless_refused=True), found.planning():
            found.plan = make_plan(config, match=match)
        if found.plan:
            found.plan["notes"] += notes_of_match(member.config, match)
            for check in checks_of_plan(config, found.plan):
                with found.asking():
                    check()
    return found


def _what_is_planned(config: Config) -> str:
    """Members that differ in their seed and their name alone are planned once."""
    planned = dataclasses.replace(config, name="run", seed=1, resume="auto")
    return str(dataclasses.asdict(planned))


def _comes_with_the_run(config: Config) -> bool:
    """Whether this machine's own run prepares its corpus, and it isn't there yet."""
    data = config.data
    there = "://" in data.path or (Path(data.path) / "manifest.json").is_file()
    return config.cluster.launcher == "local" and data.source not in ("prepared", "mixture") and not there


def _far_corpora(config: Config) -> list[str]:
    data = config.data
    paths = (data.corpora or {}).values() if data.source == "mixture" else [data.path]
    return [path for path in paths if is_url(path)]


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
    from mfa_train.checkpoints.manifest import manifest_of
    from mfa_train.data.reading.batches import Share
    from mfa_train.training.before_start import read_order
    from mfa_train.training.resuming.resume_point import find_resume_point

    config, cluster = matched(config)[0], config.cluster
    batches, _ = read_order(config, corpora, Share(0, cluster.world_size, cluster.devices_per_node))
    if not comes_later and not _comes_from_storage(config):
        find_resume_point(config, config.run_dir, batches.identity(), lambda _: None, vouch=manifest_of)


def _comes_from_storage(config: Config) -> bool:
    """Whether the run may go on from a checkpoint that is fetched when it starts."""
    from mfa_train.checkpoints.folders import newest_first

    asked = config.checkpoint.upload is not None and config.resume == "must"
    return asked and not newest_first(config.run_dir / "checkpoints")


def _require_place_in_storage(config: Config) -> None:
    """With resume=never: the job, which goes on by itself, would go on from an older run's checkpoints there."""
    if config.resume == "never":
        from mfa_train.training.resuming.from_storage import require_nothing_there, stored_run

        require_nothing_there(stored_run(config))


def _require_source(config: Config, corpora: dict[str, Corpus] | None) -> None:
    """Of what init_from names; ids are held against the corpora's where these are known."""
    from mfa_train.budget.match import matched
    from mfa_train.training.init_from.begin import require_source

    require_source(matched(config)[0], next(iter(corpora.values())).tokenizer if corpora else None)


def _require_shared(config: Config) -> None:
    shared = [Path(folder).absolute() for folder in config.cluster.shared]
    for key, path in (("runs_dir", config.runs_dir), ("data.path", config.data.path)):
        if shared and "://" not in path and not any(Path(path).absolute().is_relative_to(folder) for folder in shared):
            raise ConfigError(
                f"{key}={path}: not in a folder that all nodes share "
                f"(cluster.shared={','.join(map(str, shared))}): type "
                f"{key}={shared[0] / Path(path).name}"
            )
