"""A run as `compare` sees it, read from its folder: config.yaml, plan.json, metrics.jsonl, summary.json.

Nothing here raises for a run that is broken: it comes back with `excluded` saying why, so that one of a thousand cannot
stop the others.
"""

import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mfa_train.config.typed import flat

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
PARAMS_WITHIN = 0.02
"""How far the parameters of models of one size may differ, as a share."""
TOKENS_WITHIN = 0.01
"""Token budgets as near as that are one."""
FLOPS_WITHIN = 1e-4
"""FLOPs as near as that are equal."""
CURVE = ("tokens", "flops", "seconds", "train/loss", "val/loss")
CURVE_POINTS = 160
"""Records of one run that are kept, about, and as many evaluations: more than a chart can show."""


@dataclass
class Run:
    """One trained model. Counts are None where a table of points doesn't tell them."""

    name: str
    source: str
    """The folder, or FILE:LINE."""
    status: str = "finished"
    attention: str | None = None
    variant: str = ""
    params: float | None = None
    non_embedding_params: float | None = None
    tokens: float | None = None
    flops: float | None = None
    loss: float | None = None
    """Held out, nats per token."""
    bits_per_byte: float | None = None
    kv_bytes_per_token: float | None = None
    seconds: float | None = None
    seed: Any = None
    size: str | None = None
    """Depth and width: what runs of one size share, whatever their attention."""
    order: tuple | None = None
    """What decides which samples are trained on in which order, and so whether two runs are a pair."""
    evaluated_on: tuple | None = None
    trace: dict[str, Any] = field(default_factory=dict)
    """config_sha256, data, code_commit, versions: what made the run."""
    config: dict[str, Any] = field(default_factory=dict)
    """Flat, keys dotted."""
    shape: dict[str, Any] = field(default_factory=dict)
    curve: list[dict] = field(default_factory=list)
    edited: bool = False
    """Its config.yaml is not the one that it was trained with."""
    excluded: str | None = None
    """Why the run takes no part, in one line."""


def is_run(folder: Path) -> bool:
    """Whether a run was ever begun in `folder`."""
    return (folder / "config.yaml").is_file()


def read_run(folder: Path) -> Run:
    """The run in `folder`."""
    run = Run(folder.name, str(folder))
    try:
        text = (folder / "config.yaml").read_bytes()
        tree = yaml.load(text, Loader)
        if not isinstance(tree, dict) or not tree:
            raise ValueError("config.yaml: no keys with values")
        run.config = flat(tree)
        summary = _json(folder / "summary.json")
        run.curve, last = _curve(folder / "metrics.jsonl")
        plan = _json(folder / "plan.json") or {}
        _require_objects("plan.json", plan, "params", "kv_cache", "model")
        _require_objects("summary.json", summary or {}, "data")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        run.status, run.excluded = "damaged", f"cannot be read ({str(error).splitlines()[0]})"
        return run
    if summary is None:
        run.status, run.excluded = "unfinished", "unfinished: it has no summary.json"
        summary = {}
    run.attention = str(summary.get("attention", run.config.get("attention.name")))
    counts, cache = plan.get("params") or {}, plan.get("kv_cache") or {}
    run.params = _above_zero(summary.get("params", counts.get("total")))
    run.non_embedding_params = _above_zero(summary.get("non_embedding_params", counts.get("non_embedding")))
    run.kv_bytes_per_token = _above_zero(summary.get("kv_bytes_per_token", cache.get("bytes_per_token")))
    run.tokens, run.flops = (_above_zero(summary.get(key, last.get(key))) for key in ("tokens", "flops"))
    run.seconds = _number(summary.get("seconds", last.get("seconds")))
    run.loss, run.bits_per_byte = _number(summary.get("val_loss")), _number(summary.get("val_bits_per_byte"))
    run.seed = seed if isinstance(seed := run.config.get("seed"), (int, str)) else None
    run.shape = {key: value for key, value in (plan.get("model") or {}).items() if isinstance(value, bool) or _number(value) is not None}
    run.size = "{}x{}".format(*(run.config.get(f"model.{key}") for key in ("num_hidden_layers", "hidden_size")))
    data = summary.get("data") or {}
    tokenizer = (
        data.get("tokenizer_sha256") or f"{run.config.get('data.path')}, {run.config.get('data.vocab_size')} tokens"
    )
    sequence = run.config.get("training.sequence_length")
    run.order = (tokenizer, data.get("train_sha256"), run.seed, sequence)
    run.evaluated_on = (tokenizer, data.get("held_out_sha256"), run.config.get("training.eval_sequences"), sequence)
    run.trace = {"config_sha256": hashlib.sha256(text).hexdigest(), "data": data, "tokenizer": tokenizer,
                 "code_commit": summary.get("code_commit") and str(summary["code_commit"]), "versions": summary.get("versions")}
    run.edited = summary.get("config_sha256") not in (None, run.trace["config_sha256"])
    if run.excluded is None:
        run.status = str(summary.get("status", "unfinished"))
        run.excluded = _unusable(run)
    return run


def _unusable(run: Run) -> str | None:
    if run.status != "finished":
        return f"{run.status}: only finished runs are compared"
    for what, value in (
        ("held-out loss", run.loss),
        ("number of parameters", run.params),
        ("number of tokens", run.tokens),
    ):
        if value is None:
            return f"its {what} is missing or not finite"
        if value <= 0:
            return f"its {what} is {value:g}"
    return None


def _json(path: Path) -> dict | None:
    """None where the file isn't there; raises ValueError for what is no JSON object."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)  # NaN and Infinity
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name}: no JSON object")
    return found


def _require_objects(file: str, found: dict, *parts: str) -> None:
    for part in parts:
        if not isinstance(found.get(part) or {}, dict):
            raise ValueError(f"{file}: {part} is no JSON object")


def _above_zero(value: Any) -> float | None:
    return number if (number := _number(value)) is not None and number > 0 else None


def _number(value: Any) -> float | None:
    """Python's JSON reads NaN, Infinity and integers that no float holds; none is a result."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return value if -sys.float_info.max <= value <= sys.float_info.max else None


def _curve(path: Path) -> tuple[list[dict], dict]:
    """The records of metrics.jsonl, thinned out evenly with the last evaluations kept, and the last one."""
    if not path.is_file():
        return [], {}
    lines = path.read_text(encoding="utf-8").splitlines()
    evaluations = [index for index, line in enumerate(lines) if '"val/loss"' in line]
    stride = max(1, -(-len(lines) // CURVE_POINTS))
    kept = sorted(
        {*range(0, len(lines), stride), *evaluations[-CURVE_POINTS:], len(lines) - 1} & set(range(len(lines)))
    )
    records = []
    for index in kept:
        try:
            records.append(json.loads(lines[index]))
        except ValueError:
            if index < len(lines) - 1:  # the last line of a killed run may be cut off
                raise ValueError(f"{path.name} line {index + 1}: not JSON") from None
    return [{key: _number(record.get(key)) for key in CURVE} for record in records], records[-1] if records else {}
