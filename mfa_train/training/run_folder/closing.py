"""How a run ends: its summary, a short table, and where to look."""

import math
import shlex
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import DataError
from mfa_train.evaluation.scores import FOLDER as EVALUATIONS
from mfa_train.evaluation.scores import TaskScores
from mfa_train.tracking import by_position
from mfa_train.tracking.records import as_json, number, read_object
from mfa_train.tracking.terminal import command_here
from mfa_train.training.run_folder.folder import SUMMARY, RunFolder


def make_summary(status: str, plan: dict, record: dict, zlib_bits: float) -> dict:
    """summary.json, from the plan and the last metrics record (empty before the first)."""
    total = plan["params"]["total"]
    active = plan["params"].get("active", total)  # an older plan has none
    return {
        "status": status,
        "attention": plan["attention"],
        "params": total,
        "non_embedding_params": plan["params"]["non_embedding"],
        **({"active_params": active} if active != total else {}),
        "kv_bytes_per_token": plan["kv_cache"]["bytes_per_token"],
        "tokens": record.get("tokens", 0),
        "flops": record.get("flops", 0),
        "val_loss": record.get("val/loss"),
        "val_bits_per_byte": record.get("val/bits_per_byte"),
        **{f"val_ema_{key}": record[f"val_ema/{key}"] for key in ("loss", "bits_per_byte") if "val_ema/loss" in record},
        **by_position.told(record),
        "zlib_bits_per_byte": zlib_bits,
        "tokens_per_second": record["tokens"] / record["seconds"] if record else None,
        "seconds": record.get("seconds", 0.0),
    }


def zlib_bits_per_byte(tokenizer: Tokenizer, tokens: np.ndarray) -> float:
    """What `zlib` at level 9 needs for the text of `tokens`: a yardstick for a model's bits per byte."""
    text = tokenizer.text_bytes(tokens.ravel())
    return 8 * len(zlib.compress(text, 9)) / len(text) if text else math.nan


def evaluations(found: Iterable[TaskScores]) -> dict[str, dict[str, float]]:
    """What summary.json holds of scores on tasks: {task: {num_fewshot, documents, metric: value, metric_stderr: …}}."""
    return {
        scores.task: {
            "num_fewshot": scores.num_fewshot,
            "documents": scores.documents,
            **{
                key: value
                for name, metric in scores.metrics.items()
                for key, value in ((name, metric.value), (f"{name}_stderr", metric.stderr))
                if value is not None
            },
        }
        for scores in found
    }


def keep_evaluations(folder: Path, found: Iterable[TaskScores]) -> list[TaskScores]:
    """Adds scores of the final state to the summary.json of the run in `folder`, and gives those that it took: of fewer
    documents than it has already it takes none. Nothing else in it changes. Raises DataError where it is damaged,
    OSError where it can't be written."""
    path = folder / SUMMARY
    if (summary := read_object(path)) is None:
        raise DataError(f"{path}: cannot be read as JSON; the scores are in {folder / EVALUATIONS} alone")
    before = summary.get("evaluations") or {}
    taken = [one for one in found if not _of_more(before.get(one.task), one)]
    summary["evaluations"] = before | evaluations(taken)
    partial = path.with_name(f"{SUMMARY}.partial")
    partial.write_text(as_json(summary, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return taken


def _of_more(before: Any, scores: TaskScores) -> bool:
    """Whether `before`, a task's entry in a summary, is of more documents than `scores`, asked alike."""
    return (
        isinstance(before, dict)
        and before.get("num_fewshot") == scores.num_fewshot
        and (number(before.get("documents")) or 0) > scores.documents
    )


def closing_table(summary: dict) -> str:
    """Two columns, for a person; `-` for what a summary lacks."""

    def value_of(key: str, form: str) -> str:
        return "-" if (value := number(summary.get(key))) is None else format(value, form)

    rows = [
        ("attention", str(summary.get("attention", "-"))),
        ("parameters", f"{value_of('params', ',')} ({value_of('non_embedding_params', ',')} without embeddings)"),
        ("KV cache", f"{value_of('kv_bytes_per_token', ',')} bytes per token"),
        (
            "trained on",
            f"{value_of('tokens', ',')} tokens in {value_of('seconds', '.0f')} s "
            f"({value_of('tokens_per_second', ',.0f')} tokens/s)",
        ),
        ("held-out loss", f"{value_of('val_loss', '.4f')} nats per token"),
        ("held-out bits per byte", value_of("val_bits_per_byte", ".3f")),
        ("zlib -9, same bytes", value_of("zlib_bits_per_byte", ".3f")),
    ]
    if "active_params" in summary:
        rows.insert(2, ("  that a token meets", value_of("active_params", ",")))
    if "val_ema_loss" in summary:
        rows.append(("of averaged weights", f"held-out loss {value_of('val_ema_loss', '.4f')} nats per token"))
    for name, where in (("held-out loss to position", summary), ("  before the first step", summary.get("init_from"))):
        if isinstance(where, dict) and isinstance(of_bins := where.get(by_position.TOLD), dict):
            losses = (f"{last}: {value:.3f}" for last in of_bins if (value := number(of_bins[last])) is not None)
            length = number(where.get("sequence_length"))  # of a first stage that is shorter
            rows.append((name, "  ".join(losses) + (f"  (sequences of {length:,} tokens)" if length else "")))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def where_to_look(folder: RunFolder) -> str:
    """The run's files, and the commands that show them."""
    path = shlex.quote(str(folder.path))
    lines = [f"Run folder  {folder.path}", f"More text   {command_here('mfa-train')} generate {path} --prompt 'class '"]
    if (folder.path / "wandb").exists():
        lines.append(
            f"W&B         {command_here('wandb')} leet {shlex.quote(str(folder.path / 'wandb' / 'latest-run'))}"
        )
    return "\n".join(lines)
