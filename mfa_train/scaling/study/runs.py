"""A run as `compare` sees it, read from its folder: config.yaml, plan.json, metrics.jsonl, summary.json, starts.jsonl.

Nothing here raises for a run that is broken or odd: it comes back with `excluded` saying why, so that one of a thousand
can neither stop the others nor change what is found of them.
"""

import contextlib
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfa_train import config as configs
from mfa_train.config.quantities import bytes_of
from mfa_train.errors import ConfigError
from mfa_train.scaling.study.curve import read_curve
from mfa_train.scaling.study.plain_files import json_object, one_line, shown
from mfa_train.scaling.study.splices import steps_of, why_not_its_config
from mfa_train.tracking.records import number
from mfa_train.training.resuming.stretches import rate_of

PARAMS_WITHIN = 0.02
"""How far the parameters of models of one size may differ, as a share."""
TOKENS_WITHIN = 0.01
"""Token budgets as near as that are one."""
FLOPS_WITHIN = 1e-4
"""FLOPs as near as that are equal."""
BOUNDS = {
    "loss": (1e-6, 1e3),
    "params": (1e-6, 1e16),
    "tokens": (1e-6, 1e19),
    "flops": (1e-6, 1e36),
    "kv_bytes_per_token": (1e-6, 1e15),
}
"""What such a number can be, whatever its unit: beyond them it is no measurement, and fits would be of it alone."""
NUMBERS = (
    "model.num_hidden_layers",
    "model.hidden_size",
    "model.head_dim",
    "model.num_attention_heads",
    "optimizer.lr",
    "training.steps",
    "training.tokens",
    "training.batch_size",
    "training.sequence_length",
    "training.eval_sequences",
    "schedule.warmup_steps",
    "schedule.min_lr_ratio",
    "schedule.decay_fraction",
)
WORDS = ("attention.name", "plan.cache_dtype", "schedule.name", "precision", "tracking.group")
"""Keys of config.yaml that something is computed from, by what they must be where they are there."""
DECODING = ("decode_attention_per_token", "decode_linear_per_token", "decode_rest_per_token")
"""Of plan.json's flops, what a decoded token takes together."""
FINGERPRINT = re.compile(r"[0-9a-zA-Z]{64}")


@dataclass(slots=True)
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
    decode_flops_per_token: float | None = None
    """Of one decoded token behind `plan.context` cached ones, by the run's plan."""
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
    precision: str | None = None
    """What precision=auto meant where it was trained; None where it isn't known."""
    damaged_records: int = 0
    """Of metrics.jsonl."""
    excluded: str | None = None
    """Why the run takes no part, in one line."""


def is_run(folder: Path) -> bool:
    """Whether a run was ever begun in `folder`."""
    return (folder / "config.yaml").is_file()


def read_run(folder: Path) -> Run:
    """The run in `folder`."""
    run = Run(shown(folder.name, 255), shown(folder, 4096))
    try:
        _read(folder, run)
    except (OSError, ValueError, ConfigError) as error:
        run.config, run.order, run.evaluated_on = {}, None, None
        run.status, run.excluded = "damaged", f"cannot be read ({one_line(error)})"
    return run


def _read(folder: Path, run: Run) -> None:
    """Raises ValueError, ConfigError or OSError for what is damaged."""
    config = run.config = _checked(configs.flat(configs.plain(folder)))
    summary, plan = json_object(folder / "summary.json"), json_object(folder / "plan.json") or {}
    counts, cache, model = (_object("plan.json", plan, key) for key in ("params", "kv_cache", "model"))
    if summary is None:
        run.status, run.excluded = "unfinished", "unfinished: it has no summary.json"
        summary = {}
    data = _object("summary.json", summary, "data")
    curve = read_curve(folder / "metrics.jsonl", rate_of(config | {"training.steps": steps_of(config)}))
    last, run.curve, run.damaged_records = curve.last, curve.records, curve.damaged
    run.attention = _attention(config, plan, summary)
    run.params = _above_zero(summary.get("params", counts.get("total")))
    run.non_embedding_params = _above_zero(summary.get("non_embedding_params", counts.get("non_embedding")))
    run.kv_bytes_per_token = _above_zero(summary.get("kv_bytes_per_token", cache.get("bytes_per_token")))
    decode = [number(_object("plan.json", plan, "flops").get(key)) for key in DECODING]
    run.decode_flops_per_token = None if None in decode else _above_zero(sum(filter(None, decode)))
    run.tokens, run.flops = (_above_zero(summary.get(key, last.get(key))) for key in ("tokens", "flops"))
    run.seconds = number(summary.get("seconds", last.get("seconds")))
    run.loss, run.bits_per_byte = number(summary.get("val_loss")), number(summary.get("val_bits_per_byte"))
    run.seed = config.get("seed")
    run.shape = {
        shown(key): value
        for key, value in list(model.items())[:50]
        if isinstance(value, bool) or number(value) is not None
    }
    run.size = "{}x{}".format(*(config.get(f"model.{key}") for key in ("num_hidden_layers", "hidden_size")))
    prints = {key: _fingerprint(data, key) for key in ("tokenizer_sha256", "train_sha256", "held_out_sha256")}
    tokenizer = prints["tokenizer_sha256"] or corpus_of(config)
    sequence = config.get("training.sequence_length")
    run.order = (tokenizer, prints["train_sha256"], run.seed, sequence)
    run.evaluated_on = (tokenizer, prints["held_out_sha256"], config.get("training.eval_sequences"), sequence)
    versions, commit = summary.get("versions"), summary.get("code_commit")
    run.trace = {
        "config_sha256": hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest(),
        "data": _strings(data),
        "tokenizer": tokenizer,
        "code_commit": commit and shown(commit),
        "versions": _strings(versions) if isinstance(versions, dict) else versions and shown(versions),
    }
    run.edited = summary.get("config_sha256") not in (None, run.trace["config_sha256"])
    if run.excluded is None:
        run.status = _word("summary.json: status", summary.get("status", "unfinished"))
        run.excluded = _unusable(run, counts) or why_not_its_config(folder, config, summary, curve)
    if run.excluded is None and config.get("precision") == "auto" and (stretches := summary.get("stretches")):
        run.precision = _word("summary.json: precision", stretches[-1].get("precision", "auto"))


def corpus_of(config: dict[str, Any]) -> str:
    """What stands for the tokenizer of a run that holds no fingerprint of its data."""
    return shown(f"{config.get('data.path')}, {config.get('data.vocab_size')} tokens", 400)


def beyond(what: str, value: float | None) -> str | None:
    """Why a number cannot be what it is said to be."""
    least, most = BOUNDS[what]
    if value is None or least <= value <= most:
        return None
    return f"its {what} is {value:.3g}, expected {least:g} to {most:g}"


def _unusable(run: Run, counts: dict) -> str | None:
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
    for what in BOUNDS:
        if why := beyond(what, getattr(run, what)):
            return why
    if (planned := number(counts.get("total"))) and planned != run.params:
        return f"summary.json counts {run.params:g} parameters, plan.json {planned:g}"
    a_step = (run.config.get("training.batch_size") or 0) * (run.config.get("training.sequence_length") or 0)
    if (steps := steps_of(run.config)) and a_step and abs(run.tokens / (steps * a_step) - 1) > TOKENS_WITHIN:
        return f"summary.json counts {run.tokens:g} tokens, the steps of config.yaml make {steps * a_step:g}"
    return None


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    """The flat config, where what is computed from is of its kind. Raises ValueError."""
    for key in NUMBERS:
        value = config.get(key)
        if isinstance(value, str):  # as 1e-3, which is text in YAML
            value = config[key] = _of_text(value)
        if value is not None and not -1e19 <= (-1e300 if number(value) is None else value) <= 1e19:
            raise ValueError(f"config.yaml: {key} is {shown(value)}, expected a number")
    for key in WORDS:
        if config.get(key) is not None:
            config[key] = _word(f"config.yaml: {key}", config[key])
    seed = config.get("seed")
    if seed is not None and not (isinstance(seed, int) and not isinstance(seed, bool) and abs(seed) < 2**64):
        raise ValueError(f"config.yaml: seed is {shown(seed)}, expected a whole number")
    if (budget := config.get("match.kv_bytes_per_token")) is not None:
        try:
            bytes_of("match.kv_bytes_per_token", budget)
        except (ConfigError, OverflowError):
            raise ValueError(f"config.yaml: match.kv_bytes_per_token is {shown(budget)}, expected bytes") from None
    return config


def _attention(config: dict, plan: dict, summary: dict) -> str:
    files = ("summary.json", summary), ("plan.json", plan)
    named = {file: found["attention"] for file, found in files if "attention" in found}
    if "attention.name" in config:
        named["config.yaml"] = config["attention.name"]
    for file, name in named.items():
        _word(f"{file}: attention", name)
    if len(set(named.values())) != 1:
        told = "; ".join(f"{file}: attention is {shown(name)}" for file, name in named.items())
        raise ValueError(told or "no attention is named")
    return shown(next(iter(named.values())))


def _word(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} is {shown(value)}, expected a word")
    return shown(value)


def _object(file: str, found: dict, part: str) -> dict:
    value = found.get(part)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{file}: {part} is no JSON object")
    return value or {}


def _fingerprint(data: dict, key: str) -> str | None:
    value = data.get(key)
    if value is not None and not (isinstance(value, str) and FINGERPRINT.fullmatch(value)):
        raise ValueError(f"summary.json: data.{key} is {shown(value)}, expected a SHA-256")
    return value


def _strings(found: dict) -> dict[str, str | None]:
    return {shown(key): value if value is None else shown(value) for key, value in list(found.items())[:50]}


def _of_text(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _above_zero(value: Any) -> float | None:
    return found if (found := number(value)) is not None and found > 0 else None
