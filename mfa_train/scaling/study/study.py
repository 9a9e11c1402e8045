"""Which runs can be compared, and what must be said about the others.

Losses of different tokenizers or held-out texts are no numbers on one scale: they are refused, or, for tokenizers,
compared per byte of text. Everything else that is out of the ordinary is a notice, and stands in every output.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mfa_train.errors import ConfigError, DataError
from mfa_train.scaling.study.data_orders import of_one_corpus, say_orders
from mfa_train.scaling.study.drawn import draw
from mfa_train.scaling.study.plain_files import shown
from mfa_train.scaling.study.points_file import MOST_ROWS, read_points
from mfa_train.scaling.study.runs import Run, beyond, is_run, read_run
from mfa_train.scaling.study.variants import name_variants

PARAMETERS = {
    "total": "all parameters, embeddings included",
    "non_embedding": "parameters without input embedding and LM head",
}


MOST_VARIANTS = 100
CORPUS = (
    "data.name",
    "data.source",
    "data.dataset",
    "data.dataset_config",
    "data.dataset_split",
    "data.held_out_fraction",
)
"""What tells corpora of different tokenizers apart; of one tokenizer it is a fingerprint of the tokens."""


@dataclass
class Study:
    """`runs` are all that were read, `used` those that take part, each with its variant."""

    runs: list[Run]
    parameters: str
    per_byte: bool
    notices: list[str] = field(default_factory=list)
    paths: tuple[Path, ...] = ()
    """What was read."""

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
        groups = defaultdict(list)
        for run in self.used:
            groups[run.variant].append(run)
        return dict(sorted(groups.items()))


def gather(paths: Iterable[Path], parameters: str = "total", per_byte: bool = False, by: tuple[str, ...] = ()) -> Study:
    """The study of the run folders, folders of run folders and CSV files `paths`.

    `parameters` (total | non_embedding) is what N counts. Raises ConfigError for a path that is none of these,
    DataError where no run is left or the losses are not comparable.
    """
    runs, notices = _read(paths := tuple(paths))
    study = Study(runs, parameters, per_byte, notices, paths)
    name_variants(runs, by)
    for run in study.used:
        if parameters == "non_embedding" and run.config:
            run.params = run.non_embedding_params
        if per_byte:
            run.loss = run.bits_per_byte
        if run.loss is None or run.params is None:
            run.excluded = f"no {'bits per byte' if run.loss is None else 'count of parameters'} known"
        else:
            run.excluded = beyond("loss", run.loss) or beyond("params", run.params)
    of_one_corpus(study.used)
    for run in runs:
        if run.excluded:
            study.notices.append(f"left out: {run.name}: {run.excluded}")
    if not study.used:
        why = "; ".join(study.notices[:3]) or "type run folders, a folder of them or a CSV, as runs/* or points.csv"
        raise DataError(f"no finished run to compare: {why}")
    if len(named := {run.variant for run in study.used}) > MOST_VARIANTS:
        raise DataError(
            f"{len(named):,} variants ({', '.join(sorted(named)[:3])}, …), of which each two would be compared: name "
            f"runs of {MOST_VARIANTS} at most, or type --by KEY with the one that was varied"
        )
    _require_comparable(study)
    _say_what_differs(study)
    if drawn := draw(study.used):
        study.notices.insert(0, drawn)
    return study


def _read(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    runs, notices, seen = [], [], set()
    for path in paths:
        try:
            if path.is_file():
                runs += read_points(path, notices)
                if len(runs) > MOST_ROWS:
                    raise DataError(
                        f"{shown(path, 300)}: with it there are more than {MOST_ROWS:,} rows; name fewer tables"
                    )
                continue
            folders = _folders(path, notices)
        except OSError as error:
            raise ConfigError(
                f"{shown(path, 300)}: cannot be read ({error.strerror}); type run folders, a folder of them or a CSV"
            ) from None
        for folder in folders:
            if folder != path and re.search(r"~\d+$", folder.name):
                notices.append(
                    f"left out: {shown(folder.name)}: moved aside by a later run; name it itself to compare it"
                )
            elif (where := folder.resolve()) not in seen:
                seen.add(where)
                runs.append(read_run(folder))
    names = Counter(run.name for run in runs)
    for run in runs:
        if names[run.name] > 1:  # of two folders
            run.name = run.source
    return runs, notices


def _folders(path: Path, notices: list[str]) -> list[Path]:
    """The run folders that `path` means. Raises OSError where it can't be looked into."""
    if not path.is_dir():
        raise ConfigError(
            f"{shown(path, 300)}: no such run; type run folders, a folder of them or a CSV, as runs/* or points.csv"
        )
    inside = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
    folders = [path] if is_run(path) else list(filter(is_run, inside))
    below = []
    for folder in inside:
        try:
            if (
                not folder.name.startswith(".")
                and not is_run(folder)
                and any(map(is_run, filter(Path.is_dir, folder.iterdir())))
            ):
                below.append(folder)
        except OSError as error:
            notices.append(f"{shown(folder, 300)}: cannot be looked into ({error.strerror})")
    if below:
        notices.append(
            f"{shown(path, 300)}: folders below it hold runs as well: type "
            f"{' '.join(shown(folder, 300) for folder in below[:3])}"
        )
    elif not folders and not re.search(r"~\d+$", path.name):
        notices.append(f"{shown(path, 300)}: holds no run (no config.yaml)")
    return folders


def _require_comparable(study: Study) -> None:
    tokenizers = Counter(run.evaluated_on[0] for run in study.used if run.evaluated_on)
    if len(tokenizers) > 1:
        if not study.per_byte:
            example = {run.evaluated_on[0]: run.name for run in study.used if run.evaluated_on}
            several = "; ".join(
                f"{count} × {name[:12]}, as of {example[name]}" for name, count in tokenizers.most_common(3)
            )
            raise DataError(
                f"the runs have {len(tokenizers)} tokenizers ({several}), and losses per token of different tokens "
                "are not comparable: type --per-byte to compare bits per byte, or name runs of one tokenizer"
            )
        study.notices.append(
            "the runs have different tokenizers: losses are bits per byte; D counts each run's own tokens, "
            "so tokens and pairs are not comparable across tokenizers, FLOPs are"
        )
        for key in CORPUS:
            if len(values := sorted({str(run.config[key]) for run in study.used if key in run.config})) > 1:
                raise DataError(
                    f"the runs were evaluated on different held-out texts ({key} is {', '.join(values)}): name runs "
                    "of one corpus"
                )
        if any(run.evaluated_on[2] for run in study.used if run.evaluated_on):
            study.notices.append(
                "a number of sequences is another stretch of text with another tokenizer: train with "
                "training.eval_sequences=0 "
                "to evaluate on all of the held-out text"
            )
        if len({str(run.config.get("data.files")) for run in study.used if run.config}) > 1:
            study.notices.append("data.files differ between the runs: that they are one text is taken on trust")
    texts = defaultdict(set)
    for run in study.used:
        if run.evaluated_on and run.evaluated_on[1]:
            texts[run.evaluated_on[0]].add(run.evaluated_on[1])
    if any(len(held_out) > 1 for held_out in texts.values()):
        raise DataError(
            "the runs were evaluated on different held-out texts (summary.json: data.held_out_sha256 differs): "
            "name runs of one prepared corpus"
        )


def _say_what_differs(study: Study) -> None:
    measured = [run for run in study.used if run.evaluated_on]
    if 0 < len(measured) < len(study.used):
        study.notices.append(
            "runs and tables of points stand side by side: that their losses are of one text is taken on trust"
        )
    if len({run.evaluated_on[2:] for run in measured}) > 1:
        study.notices.append(
            "the runs were evaluated on different parts of the held-out text (training.eval_sequences or "
            "training.sequence_length differ)"
        )
    study.notices += say_orders(study.runs)
    if damaged := [run for run in study.runs if run.damaged_records]:
        told = ", ".join(f"{run.name} {run.damaged_records}" for run in damaged[:3])
        study.notices.append(
            f"records of metrics.jsonl that cannot be read are missing from the curves: {told}"
            f"{', …' if len(damaged) > 3 else ''}"
        )
    if unknown := sum(not run.trace.get("data") for run in measured):
        study.notices.append(
            f"{unknown} of {len(measured)} runs hold no fingerprint of their data (an older version's): they "
            "are taken to be of one corpus where data.path is the same"
        )
    if edited := [run.name for run in measured if run.edited]:
        study.notices.append(
            f"config.yaml is not what the run was trained with (its hash is not summary.json's): "
            f"{', '.join(edited[:3])}{', …' if len(edited) > 3 else ''}"
        )
    points = [run for run in study.used if not run.evaluated_on]
    if unseeded := sum(run.seed is None for run in points):
        study.notices.append(
            f"{unseeded} of {len(points)} rows of tables have no seed, and count as independent: of rows that are "
            "checkpoints of one run the intervals are too narrow"
        )
    for what, key in (("commits of the code", "code_commit"), ("sets of library versions", "versions")):
        if len(made := {str(found) for run in measured if (found := run.trace.get(key))}) > 1:
            study.notices.append(
                f"the runs are of {len(made)} {what} (runs.csv): that they train alike is taken on trust"
            )
    rows = Counter((run.variant, run.params, run.tokens, run.seed, run.loss) for run in points)
    if many := sum(count > 1 for count in rows.values()):
        study.notices.append(f"{many} rows of the table stand there twice, and count twice in the laws")
    doubles = Counter((run.variant, run.size, run.tokens, run.order) for run in study.used if run.order)
    if many := [key[0] for key, count in doubles.items() if count > 1]:
        study.notices.append(
            f"several runs of one variant, size, budget and data order ({', '.join(sorted(set(many))[:3])}): each "
            "counts in the laws, their mean in the pairs; --by KEY tells them apart"
        )
