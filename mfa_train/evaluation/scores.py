"""What a task says of one state of a run, in a file of its own: RUN/evaluations/TASK-SHOTSshot-step-STEP.json.

Each document's own values stand beside the means, so that runs can be compared in pairs, document by document.
"""

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    """final, or step-N."""
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

    @property
    def file_name(self) -> str:
        name = re.sub(r"[^\w.-]", "_", self.task)
        return f"{name}-{self.num_fewshot}shot-step-{self.step:08d}.json"


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
    task: str,
    outcome: dict,
    *,
    checkpoint: str,
    step: int,
    tokens: int,
    limit: int | None,
    truncated: int,
    seconds: float,
    commit: str | None,
) -> TaskScores:
    """Of what lm-eval's `evaluate` gave of one task, its samples logged."""
    import hashlib
    import math
    from importlib.metadata import version

    samples = outcome["samples"][task]
    better = outcome["higher_is_better"][task]
    metrics, by_document = {}, {}
    for key, value in outcome["results"][task].items():
        name, _, filtered = key.partition(",")
        if not filtered or name.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        of = [sample[name] for sample in samples if sample["filter"] == filtered]
        stderr = None
        if all(isinstance(one, (int, float)) for one in of):
            by_document[name] = [float(one) for one in of]
            if len(of) > 1 and math.isclose(math.fsum(of) / len(of), value):
                mean = math.fsum(of) / len(of)
                stderr = math.sqrt(math.fsum((one - mean) ** 2 for one in of) / (len(of) - 1) / len(of))
        metrics[name] = Metric(float(value), stderr, bool(better.get(name, True)))
    prompts = json.dumps([sample["arguments"] for sample in samples], default=str)
    return TaskScores(
        task=task,
        task_version=str(outcome["versions"][task]),
        num_fewshot=int(outcome["n-shot"][task]),
        checkpoint=checkpoint,
        step=step,
        tokens=tokens,
        limit=limit,
        documents=len({sample["doc_id"] for sample in samples}),
        documents_sha256=hashlib.sha256(prompts.encode()).hexdigest(),
        truncated=truncated,
        metrics=metrics,
        by_document=by_document,
        versions={"lm_eval": version("lm_eval"), "mfa_train": commit},
        seconds=seconds,
    )
