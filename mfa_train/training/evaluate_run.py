"""`mfa-train evaluate`: one state of a run scored on tasks, by one process or those of a launcher.

The run's folder is not locked, so a checkpoint of a run that goes on can be scored. Each task's scores are written as
soon as they are there.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mfa_train.budget.devices import planned_device, resolve_precision
from mfa_train.checkpoints.model import model_of
from mfa_train.checkpoints.weights import FINAL, RunWeights, averaged_state, weights_of
from mfa_train.columns import in_columns
from mfa_train.config import Config
from mfa_train.evaluation import scores as files
from mfa_train.evaluation.evaluate import State, evaluate, require_room
from mfa_train.evaluation.lm import RunLM
from mfa_train.evaluation.scores import TaskScores
from mfa_train.evaluation.tasks import load_tasks
from mfa_train.tracking.records import read_object
from mfa_train.tracking.starts import starts
from mfa_train.tracking.wandb_run import WandbRun
from mfa_train.training.processes.ranks import join, local_rank, local_world_size
from mfa_train.training.run_folder.closing import keep_evaluations
from mfa_train.training.run_folder.folder import SUMMARY
from mfa_train.training.run_folder.opening import wandb_identity
from mfa_train.training.run_folder.provenance import code_commit
from mfa_train.training.steps.task_scores import metrics_of

Say = Callable[[str], None]


def evaluate_run(config: Config, folder: Path, checkpoint: str, say: Say) -> list[TaskScores]:
    """The scores of the run in `folder` at `checkpoint` (final, step-N, or either with -ema) on evaluation.tasks, on
    every rank; rank 0 writes them to the run's evaluations/, those of a finished run's final state to summary.json and
    W&B too, and tells `say` of each.

    Raises ConfigError for a task or a state that there isn't, or scores that can't be written, DataError for damaged
    weights: before a model is made.
    """
    weights = weights_of(folder, config, checkpoint)
    tokenizer = weights.tokenizer()
    tasks, context = load_tasks(config.evaluation), weights.sequence_length
    require_room(tasks, context)
    files.require_folder(folder)
    device = planned_device("auto", local_world_size(), local_rank())
    ranks = join()
    dtype = torch.float32 if weights.dtype == torch.float32 else resolve_precision("auto", device)
    model = model_of(weights).to(ranks.device, dtype).eval()
    lm = RunLM(model, tokenizer, ranks, context=context, batch_tokens=config.evaluation.batch_tokens)
    found = []
    for scores in evaluate(lm, tasks, _state(weights), config.evaluation.limit, code_commit()):
        found.append(scores)
        if ranks.is_rank_zero:
            files.write(folder, scores)
            say(f"{scores.task}: {scores.documents:,} documents in {scores.seconds:.1f} s")
    if ranks.is_rank_zero and checkpoint == FINAL:
        _keep(config, folder, found, say)
    return found


def _state(weights: RunWeights) -> State:
    name = FINAL if weights.is_final else f"step-{weights.step}"
    return State(averaged_state(name) if weights.averaged else name, weights.step, weights.tokens)


def _keep(config: Config, folder: Path, found: Sequence[TaskScores], say: Say) -> None:
    """In summary.json, and in the run's W&B run."""
    if not (folder / SUMMARY).is_file():
        say(f"{folder}: no {SUMMARY} yet, as the run has not ended: the scores are in {files.FOLDER}/ alone")
        return
    taken = keep_evaluations(folder, found)
    for scores in found:
        if scores not in taken:
            say(f"{scores.task}: {SUMMARY} keeps the scores of more documents")
    identity = wandb_identity(starts(folder))
    if config.tracking.wandb == "disabled" or identity is None or not taken:
        return
    # What was logged offline goes on offline: `wandb sync` puts both together.
    mode = config.tracking.wandb if identity.get("url") else "offline"
    tracking = dataclasses.replace(config.tracking, wandb=mode)
    run = WandbRun(tracking, folder.name, folder / files.FOLDER, {}, identity["id"], say=say)
    values = {name: value for scores in taken for name, value in metrics_of(scores).items()}
    run.finish({"status": (read_object(folder / SUMMARY) or {}).get("status", "finished")} | values)


def table(found: Sequence[TaskScores]) -> str:
    """For a person."""
    rows = [["task", "version", "shots", "documents", "metric", "value", "± stderr", "truncated"]]
    for scores in found:
        head = [scores.task, scores.task_version, str(scores.num_fewshot), f"{scores.documents:,}"]
        for name, metric in scores.metrics.items():
            stderr = "" if metric.stderr is None else f"± {metric.stderr:.4f}"
            value = f"{metric.value:.4f}" if abs(metric.value) < 10**6 else f"{metric.value:.4g}"  # a perplexity
            rows.append([*head, name, value, stderr, f"{scores.truncated:,}"])
            head = [""] * len(head)
    return "\n".join([*in_columns(rows, words={0, 4}), *_by_field(found)])


def _by_field(found: Sequence[TaskScores]) -> list[str]:
    """Of tasks that are told by a field of their documents, as needles by their depth: a table of each metric, a task a
    row and a value a column."""
    lines = []
    for field in dict.fromkeys(field for scores in found for field in scores.by):
        told = [(scores.task, scores.parts()) for scores in found if field in scores.by]
        columns = list(dict.fromkeys(part for _, parts in told for part in parts if part.startswith(f"{field}=")))
        for metric in dict.fromkeys(metric for _, parts in told for means in parts.values() for metric in means):
            values = [[parts.get(column, {}).get(metric) for column in columns] for _, parts in told]
            rows = [[metric, *columns]] + [
                [task, *("-" if value is None else f"{value:.4f}" for value in row)]
                for (task, _), row in zip(told, values)
            ]
            lines += ["", *in_columns(rows, words={0})]
    return lines
