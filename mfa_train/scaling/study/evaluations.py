"""Scores of a run's last state on tasks (RUN/evaluations/), read as a stranger's files: of a task's metrics the one
that is compared, and the accuracy beside it.

Of a task with scores of several limits those of the most documents count. A file that is damaged, contradicts
itself or is of no such form is passed over, and told. Files of earlier states, which a run leaves while it trains,
and of averaged weights are not opened.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mfa_train.archive import AnyPath
from mfa_train.checkpoints.folders import AVERAGED
from mfa_train.evaluation.scores import FOLDER, FORMAT
from mfa_train.scaling.study.plain_files import json_object, one_line, shown
from mfa_train.tracking.records import number

BITS_PER_BYTE = "bits_per_byte"
ACCURACIES = ("acc", "exact_match", "acc_norm")
"""The first that a task has is its accuracy, whatever filter its name tells behind a dot."""
MOST_FILES = 200
"""Of one state: tasks and their few-shot settings."""
LARGEST_SCORE = 1e9
MEAN_WITHIN = 1e-4
"""A metric's value is the mean of its documents' to within so much, relative above 1."""


class Documents(NamedTuple):
    """What a score is of: equal where two may be paired document by document."""

    task_version: str
    num_fewshot: int
    limit: float | None
    documents: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Score:
    """A metric of a task."""

    metric: str
    value: float
    stderr: float | None
    higher_is_better: bool
    by_document: np.ndarray | None
    """(documents,); int8 where each is 0 or 1, else float32; None where it is no mean over documents."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A task's scores of one state."""

    documents: Documents
    scores: tuple[Score, ...]
    """Bits per byte where the task has them (small models can be told apart by them), and its accuracy beside them;
    else its accuracy, or the first metric by name."""


class Evaluations(NamedTuple):
    """What lies in a run's folder."""

    by_task: dict[str, Evaluation]
    """Of the last state, by task, its shots behind it where there are any."""
    passed_over: list[str]
    """Files that are no such scores, each with the reason."""
    only_earlier: bool
    """There are scores, none of the last state."""


def read_evaluations(run: AnyPath, steps: int | None) -> Evaluations:
    """Those of the state after so many steps."""
    found, passed_over = Evaluations({}, [], False), []
    if steps is None or not (folder := run / FOLDER).is_dir():
        return found
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(".json"))
    names = [name for name in names if not name.endswith(f"{AVERAGED}.json")]
    last = [name for name in names if name.endswith(f"-step-{steps:08d}.json")]
    for name in last[:MOST_FILES]:
        try:
            task, evaluation = _read(folder / name, steps)
            other = found.by_task.get(task)
            if other and other.documents.limit == evaluation.documents.limit:
                raise ValueError(f"{task} stands in another file too")
            if not other or other.documents.documents < evaluation.documents.documents:
                found.by_task[task] = evaluation
        except (OSError, ValueError, OverflowError) as error:
            why = one_line(error).removeprefix(f"{name}: ")
            passed_over.append(f"{shown(name)} ({why})")
    if len(last) > MOST_FILES:
        passed_over.append(f"{len(last) - MOST_FILES:,} files behind the first {MOST_FILES}")
    return Evaluations(found.by_task, passed_over, bool(names) and not last)


def _read(path: AnyPath, steps: int) -> tuple[str, Evaluation]:
    """Raises ValueError for what is damaged, OSError for what can't be read."""
    content = json_object(path) or {}
    if content.get("format") != FORMAT:
        raise ValueError(f"format is {shown(content.get('format'))}, expected {FORMAT}")
    if _whole(content, "step") != steps:
        raise ValueError(f"step is {content['step']}, by its name {steps}")
    task, sha256 = content.get("task"), content.get("documents_sha256")
    if not isinstance(task, str) or not isinstance(sha256, str):
        raise ValueError("no task and documents_sha256 are named")
    shots, documents, limit = _whole(content, "num_fewshot"), _whole(content, "documents"), content.get("limit")
    if limit is not None and number(limit) is None:
        raise ValueError(f"limit is {shown(limit)}, expected a number")
    of = Documents(shown(content.get("task_version")), shots, limit, documents, shown(sha256))
    metrics, by_document = content.get("metrics"), content.get("by_document")
    if not isinstance(metrics, dict) or not isinstance(by_document, dict) or not metrics:
        raise ValueError("no metrics, or no by_document")
    accuracy = next((name for known in ACCURACIES for name in metrics if name.partition(".")[0] == known), None)
    first = BITS_PER_BYTE if BITS_PER_BYTE in metrics else accuracy or min(metrics)
    both = [first, accuracy] if first == BITS_PER_BYTE and accuracy else [first]
    scores = [_score(name, metrics[name], by_document.get(name), documents) for name in both]
    scores.sort(key=lambda score: score.by_document is None)  # what can be paired is the one compared
    evaluation = Evaluation(of, tuple(scores))
    return shown(task) + (f" {shots}-shot" if shots else ""), evaluation


def _score(name: str, metric: Any, values: Any, documents: int) -> Score:
    if not isinstance(metric, dict) or not isinstance(metric.get("higher_is_better"), bool):
        raise ValueError(f"{shown(name)} has no value and direction")
    value, stderr = number(metric.get("value")), number(metric.get("stderr"))
    if value is None or abs(value) > LARGEST_SCORE or (metric.get("stderr") is not None and (stderr or 0) < 0):
        raise ValueError(f"{shown(name)} is {shown(metric.get('value'))}, expected a number")
    each = None
    if values is not None:
        if not isinstance(values, list) or len(values) != documents:
            raise ValueError(f"{shown(name)} has no list of {documents:,} documents")
        if any(type(one) not in (int, float, bool) for one in values):
            raise ValueError(f"{shown(name)} of a document is no number")
        each = np.array(values, dtype=np.float64)
        if not (np.abs(each) <= LARGEST_SCORE).all():
            raise ValueError(f"{shown(name)} of a document is no finite number")
        if abs((mean := float(each.mean())) - value) > MEAN_WITHIN * max(1.0, abs(value)):
            raise ValueError(f"{shown(name)} is {value:.6g}, its documents' mean {mean:.6g}")
        each = each.astype(np.int8 if np.isin(each, (0, 1)).all() else np.float32)
    return Score(shown(name), value, stderr, metric["higher_is_better"], each)


def _whole(content: dict, key: str) -> int:
    """Raises ValueError."""
    value = content.get(key)
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{key} is {shown(value)}, expected a whole number")
    return value
