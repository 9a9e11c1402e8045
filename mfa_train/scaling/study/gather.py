"""A study: the runs that are compared, each of a variant and in one unit, and what must be said about the others."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mfa_train.errors import DataError
from mfa_train.scaling.study.comparable import require_comparable
from mfa_train.scaling.study.continued import leave_out_continued
from mfa_train.scaling.study.data_orders import of_one_corpus
from mfa_train.scaling.study.drawn import draw
from mfa_train.scaling.study.found import TYPE, found, is_table
from mfa_train.scaling.study.growing import lay_side_by_side
from mfa_train.scaling.study.mixtures import set_apart
from mfa_train.scaling.study.notices import out_of_the_ordinary
from mfa_train.scaling.study.plain_files import shown
from mfa_train.scaling.study.points_file import MOST_ROWS, read_points
from mfa_train.scaling.study.read_run import read_run
from mfa_train.scaling.study.runs import Run, beyond
from mfa_train.scaling.study.variants import name_variants

PARAMETERS = {
    "total": "all parameters, embeddings included",
    "non_embedding": "parameters without input embedding and LM head",
}
MOST_VARIANTS = 100


@dataclass
class Study:
    """`runs` are all that were read, `used` those that take part, each with its variant."""

    runs: list[Run]
    parameters: str
    per_byte: bool
    notices: list[str] = field(default_factory=list)
    paths: tuple[Path, ...] = ()
    """As they were typed."""

    @property
    def used(self) -> list[Run]:
        """The runs that are compared."""
        return [run for run in self.runs if run.excluded is None]

    @property
    def loss_unit(self) -> str:
        """Of every loss in the study."""
        return "bits per byte" if self.per_byte else "nats per token"

    def variants(self) -> dict[str, list[Run]]:
        """The runs in use, by variant in the order of their names."""
        groups: dict[str, list[Run]] = defaultdict(list)
        for run in self.used:
            groups[run.variant].append(run)
        return dict(sorted(groups.items()))


def gather(paths: Iterable[Path], parameters: str = "total", per_byte: bool = False, by: tuple[str, ...] = ()) -> Study:
    """The study of what `paths` mean: run folders, folders and archives of them, CSV files.

    `parameters` (total | non_embedding) is what N counts. Raises ConfigError for a path that is none of these,
    DataError where no run is left or the losses are not comparable.
    """
    notices: list[str] = []
    runs = _read(paths := tuple(paths), notices)
    study = Study(runs, parameters, per_byte, notices, paths)
    notices += leave_out_continued(runs, by)
    name_variants(runs, by)
    lay_side_by_side(runs, by)
    for run in runs:
        _count(run, study)
    of_one_corpus(study.used)
    notices += [f"left out: {run.name}: {run.excluded}" for run in runs if run.excluded]
    if not study.used:
        why = "; ".join(notices[:3]) or f"{TYPE}, as runs/* or points.csv"
        raise DataError(f"no finished run to compare: {why}")
    if len(named := {run.variant for run in study.used}) > MOST_VARIANTS:
        raise DataError(
            f"{len(named):,} variants ({', '.join(sorted(named)[:3])}, …), of which each two would be compared: name "
            f"runs of {MOST_VARIANTS} at most, or type --by KEY with the one that was varied"
        )
    notices += require_comparable(study.used, per_byte) + set_apart(study.used, by)
    notices += out_of_the_ordinary(runs)
    if drawn := draw(study.used):
        notices.insert(0, drawn)
    return study


def _read(paths: Iterable[Path], notices: list[str]) -> list[Run]:
    """The runs and rows, no two of one name."""
    runs: list[Run] = []
    for path in found(paths, notices):
        if not is_table(path):
            runs.append(read_run(path))
            continue
        runs += read_points(path, notices)
        if len(runs) > MOST_ROWS:
            raise DataError(f"{shown(path, 300)}: with it there are more than {MOST_ROWS:,} rows; name fewer tables")
    names = Counter(run.name for run in runs)
    for run in runs:
        if names[run.name] > 1:  # of two folders
            run.name = run.source
    return runs


def _count(run: Run, study: Study) -> None:
    """Sets the run's `loss` and `params` as the study counts them; one that lacks them takes no part."""
    if run.config:
        run.params = run.active_params
        if study.parameters == "non_embedding" and run.active_params and run.total_params:
            of_others = run.total_params - run.active_params
            run.params = run.non_embedding_params and run.non_embedding_params - of_others
        run.loss = run.nats_per_token
    if study.per_byte:
        run.loss = run.bits_per_byte
    if run.excluded is not None:
        return
    if run.loss is None or run.params is None:
        run.excluded = f"no {'bits per byte' if run.loss is None else 'count of parameters'} known"
    else:
        run.excluded = beyond("loss", run.loss) or beyond("params", run.params)
