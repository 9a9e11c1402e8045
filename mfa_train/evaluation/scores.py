"""What a task says of one state of a run, in a file of its own: RUN/evaluations/TASK-SHOTSshot-step-STEP.json, of its
first documents alone TASK-SHOTSshot-limit-N-step-STEP.json, of the average of the state's weights …-step-STEP-ema.json.

Each document's own values stand beside the means, so that runs can be compared in pairs, document by document.
"""

import dataclasses
import hashlib
import json
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mfa_train.checkpoints.folders import AVERAGED
from mfa_train.errors import ConfigError
from mfa_train.evaluation.gold import bits_per_byte
from mfa_train.tracking.records import read_object

FOLDER, FORMAT = "evaluations", 1


@dataclass(frozen=True)
class Metric:
    """A mean over documents."""

    value: float
    stderr: float | None
    """Of the mean; None where lm-eval has none."""
    higher_is_better: bool


@dataclass(frozen=True)
class TaskScores:
    """Of one task and state."""

    task: str
    task_version: str
    num_fewshot: int
    checkpoint: str
    """final, or step-N; final-ema, or step-N-ema."""
    step: int
    tokens: int
    """Trained on until then."""
    limit: int | None
    documents: int
    documents_sha256: str
    """Of all documents' prompts, in order: equal where the scores may be paired."""
    truncated: int
    """Requests whose context was cut on the left to fit the model's."""
    metrics: dict[str, Metric]
    by_document: dict[str, list[float]]
    """By metric, where it is a mean over documents."""
    versions: dict[str, str | None]
    seconds: float
    by: dict[str, list] = field(default_factory=dict)
    """Of a task whose `metadata.by` names a field of its documents: that field, and its value in each document."""

    def parts(self) -> dict[str, dict[str, float]]:
        """{"FIELD=VALUE": {metric: mean over the documents that have it}}."""
        found: dict[str, dict[str, float]] = {}
        for key, values in self.by.items():
            for value in dict.fromkeys(values):
                means = {
                    metric: [score for score, own in zip(scores, values) if own == value]
                    for metric, scores in self.by_document.items()
                }
                found[f"{key}={value}"] = {metric: _rounded(math.fsum(own) / len(own)) for metric, own in means.items()}
        return found

    @property
    def file_name(self) -> str:
        name = re.sub(r"[^\w.-]", "_", self.task)
        limit = "" if self.limit is None else f"-limit-{self.limit}"
        return f"{name}-{self.num_fewshot}shot{limit}-step-{self.step:08d}{AVERAGED if self.averaged else ''}.json"

    @property
    def averaged(self) -> bool:
        """Whether they are of the average of the state's weights."""
        return self.checkpoint.endswith(AVERAGED)


def require_folder(run: Path) -> None:
    """Raises ConfigError where the run's scores could not be written, before they are worked out."""
    folder = run / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"{folder}: scores can't be written there ({error.strerror}); make it a folder with room and the right to "
            "write, or copy the run to one"
        ) from error


def write(run: Path, scores: TaskScores) -> Path:
    """Leaves them in the run's folder, whole, in place of older ones of the same name. Raises OSError."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / scores.file_name
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(scores)}) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def read(run: Path, say: Callable[[str], None]) -> list[TaskScores]:
    """All that lie there, by file name; `say` is told of damaged ones, which are passed over."""
    found = []
    for path in sorted((run / FOLDER).glob("*.json")):
        try:
            content = read_object(path) or {}
            if content.pop("format", None) != FORMAT:
                raise ValueError(f"of another form than format {FORMAT}")
            content["metrics"] = {name: Metric(**metric) for name, metric in content["metrics"].items()}
            found.append(TaskScores(**content))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            say(f"warning: {path}: no scores of this version ({error}); passed over")
    return found


def scores_of(
    task: Any,
    outcome: dict[str, Any],
    *,
    checkpoint: str,
    step: int,
    tokens: int,
    limit: int | None,
    truncated: int,
    seconds: float,
    commit: str | None,
) -> TaskScores:
    """Of what lm-eval's `evaluate` gave for its Task `task`, samples logged: all its metrics, and `bits_per_byte` of
    the right answer where it has none of that name. Numbers are rounded to six digits."""
    name = task.task_name
    samples = sorted(outcome["samples"][name], key=lambda sample: sample["doc_id"])
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    first = [sample for sample in samples if sample["filter"] == filters[0]]
    metrics, by_document = {}, {}
    for key, value in outcome["results"][name].items():
        metric, _, filtered = key.partition(",")
        if not filtered or metric.endswith("_stderr"):
            continue
        told = metric if len(filters) == 1 else f"{metric}.{filtered}"
        higher = outcome["higher_is_better"][name].get(metric, True)
        values = [sample[metric] for sample in samples if sample["filter"] == filtered and metric in sample]
        if _is_mean(values, value):
            by_document[told] = [_rounded(one) for one in values]
        stderr = _stderr(values) if told in by_document else outcome["results"][name].get(f"{metric}_stderr,{filtered}")
        metrics[told] = Metric(_rounded(value), _rounded(stderr) if isinstance(stderr, float) else None, higher)
    if "bits_per_byte" not in metrics and (bits := bits_per_byte(task, first)):
        stderr = _stderr(bits)
        metrics["bits_per_byte"] = Metric(
            _rounded(math.fsum(bits) / len(bits)), None if stderr is None else _rounded(stderr), False
        )
        by_document["bits_per_byte"] = [_rounded(one) for one in bits]
    prompts = "".join(json.dumps(sample["arguments"], default=str) + "\n" for sample in first)
    return TaskScores(
        task=name,
        task_version=str(task.VERSION),
        num_fewshot=task.config.num_fewshot or (task.config.metadata or {}).get("num_fewshot", 0),
        checkpoint=checkpoint,
        step=step,
        tokens=tokens,
        limit=limit,
        documents=len(first),
        documents_sha256=hashlib.sha256(prompts.encode()).hexdigest(),
        truncated=truncated,
        metrics=metrics,
        by_document=by_document,
        versions={"lm_eval": version("lm_eval"), "mfa_train": commit},
        seconds=_rounded(seconds),
        by={by: [sample["doc"][by] for sample in first]} if (by := (task.config.metadata or {}).get("by")) else {},
    )


def _is_mean(values: Sequence[Any], value: float) -> bool:
    if not values or not all(isinstance(one, (int, float)) for one in values):
        return False
    return math.isclose(math.fsum(values) / len(values), value, rel_tol=1e-9, abs_tol=1e-12)


def _stderr(values: Sequence[float]) -> float | None:
    """Of the mean."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((one - mean) ** 2 for one in values) / (len(values) - 1) / len(values))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
