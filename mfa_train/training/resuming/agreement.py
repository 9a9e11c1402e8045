"""Which checkpoint a run goes on from, read for its checksums by all ranks: each reads its share of the files, and all
go by what any of them found.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mfa_train.checkpoints.folders import verify_files
from mfa_train.checkpoints.manifest import Damaged, manifest_of
from mfa_train.config import Config
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.resuming.resume_point import ResumePoint, find_resume_point


def find_verified(
    config: Config,
    folder: Path,
    data: dict[str, Any],
    ranks: Ranks,
    meanwhile: Callable[[ResumePoint | None], None] = lambda point: None,
    mend: Callable[[Path, str], bool] = lambda checkpoint, damage: False,
) -> ResumePoint | None:
    """`find_resume_point` by all ranks. `meanwhile` gets the newest checkpoint with a whole manifest, once, while its
    files are read; that there is one at all does not change then. `mend` gets one of which files are damaged, once, by
    all ranks, and says whether it is whole now. Raises as `find_resume_point`, on every rank."""
    damaged: dict[Path, str] = {}
    told: list[str] = []
    tried: set[Path] = set()

    def vouch(checkpoint: Path) -> dict:
        if checkpoint in damaged:
            raise Damaged(damaged[checkpoint])
        return manifest_of(checkpoint)

    def find() -> ResumePoint | None:
        told.clear()  # each round finds again what the one before did
        try:
            return find_resume_point(config, folder, data, told.append, vouch)
        except Exception:
            ranks.say("\n".join(told))
            raise

    waiting: Callable[[ResumePoint | None], None] | None = meanwhile
    while True:
        point = ranks.on_rank_zero(find)
        with ThreadPoolExecutor(1) as beside:
            verifying = beside.submit(_damage, point, ranks) if point else None
            if waiting:
                waiting(point)
                waiting = None
        found = ranks.gather_objects(verifying.result()) if verifying else []
        damage = next(filter(None, found), None)
        if point is None or damage is None:
            if told:
                ranks.say("\n".join(told))
            return point
        if point.checkpoint in tried or not mend(point.checkpoint, damage):
            damaged[point.checkpoint] = damage
        tried.add(point.checkpoint)


def _damage(point: ResumePoint, ranks: Ranks) -> str | None:
    """What is wrong with this rank's share of the files."""
    try:
        verify_files(point.checkpoint, point.content["files"][ranks.rank :: ranks.world_size])
    except (Damaged, OSError) as error:
        return str(error)
    return None
