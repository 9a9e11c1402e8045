"""A run read from its folder, or from one in an archive: config.yaml, plan.json, metrics.jsonl, summary.json,
starts.jsonl, evaluations/.

Nothing here raises for a run that is broken or odd: it comes back with `excluded` saying why, so that one of a thousand
can neither stop the others nor change what is found of them.
"""

import hashlib
import re
from typing import Any

from mfa_train import config as configs
from mfa_train.archive import AnyPath
from mfa_train.errors import ConfigError
from mfa_train.scaling.study.config_values import checked, word
from mfa_train.scaling.study.curve import read_curve
from mfa_train.scaling.study.evaluations import read_evaluations
from mfa_train.scaling.study.growing import schedule_of
from mfa_train.scaling.study.mixtures import is_mixture
from mfa_train.scaling.study.plain_files import json_object, one_line, shown
from mfa_train.scaling.study.runs import TOKENS_WITHIN, DataOrder, HeldOut, Run, beyond
from mfa_train.scaling.study.splices import steps_of, why_not_its_config
from mfa_train.tracking.by_position import TOLD
from mfa_train.tracking.records import number
from mfa_train.training.resuming.stretches import rate_of

DECODING = ("decode_attention_per_token", "decode_linear_per_token", "decode_rest_per_token")
"""Of plan.json's flops, what a decoded token takes together."""
MOST_BINS = 64
"""Of losses by position."""
FINGERPRINT = re.compile(r"[0-9a-zA-Z]{64}")


def is_run(folder: AnyPath) -> bool:
    """Whether a run was ever begun in `folder`."""
    return (folder / "config.yaml").is_file()


def read_run(folder: AnyPath) -> Run:
    """The run in `folder`."""
    run = Run(shown(folder.name, 255), shown(folder, 4096))
    try:
        _read(folder, run)
    except (OSError, ValueError, ConfigError) as error:
        run.config, run.order, run.evaluated_on = {}, None, None
        run.status, run.excluded = "damaged", f"cannot be read ({one_line(error)})"
    return run


def _read(folder: AnyPath, run: Run) -> None:
    """Raises ValueError, ConfigError or OSError for what is damaged."""
    config = run.config = checked(configs.flat(configs.plain(folder)))
    summary, plan = json_object(folder / "summary.json"), json_object(folder / "plan.json") or {}
    counts, cache, model = (_object("plan.json", plan, key) for key in ("params", "kv_cache", "model"))
    if summary is None:
        run.status, run.excluded = "unfinished", "unfinished: it has no summary.json"
        summary = {}
    data = _object("summary.json", summary, "data")
    curve = read_curve(folder / "metrics.jsonl", rate_of(config | {"training.steps": steps_of(config)}))
    last, run.curve, run.damaged_records = curve.last, curve.records, curve.damaged
    run.attention = _attention(config, plan, summary)
    run.total_params = _above_zero(summary.get("params", counts.get("total")))
    run.non_embedding_params = _above_zero(summary.get("non_embedding_params", counts.get("non_embedding")))
    active = _above_zero(summary.get("active_params", counts.get("active")))
    run.active_params = active if is_mixture(run) else run.total_params
    run.kv_bytes_per_token = _above_zero(summary.get("kv_bytes_per_token", cache.get("bytes_per_token")))
    decode = [number(_object("plan.json", plan, "flops").get(key)) for key in DECODING]
    run.decode_flops_per_token = None if None in decode else _above_zero(sum(filter(None, decode)))
    run.tokens, run.flops = (_above_zero(summary.get(key, last.get(key))) for key in ("tokens", "flops"))
    run.seconds = number(summary.get("seconds", last.get("seconds")))
    run.nats_per_token = number(summary.get("val_loss"))
    run.bits_per_byte = number(summary.get("val_bits_per_byte"))
    run.by_position = _by_position(_object("summary.json", summary, TOLD))
    if "sequence_length" not in (begun := _object("summary.json", summary, "init_from")):  # else it read less at once
        run.by_position_before = _by_position(_object("summary.json", begun, TOLD))
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
    draw = config.get("model.initialization.draw")
    run.order = DataOrder(tokenizer, prints["train_sha256"], run.seed, sequence, draw, schedule_of(config))
    run.evaluated_on = HeldOut(tokenizer, prints["held_out_sha256"], config.get("training.eval_sequences"), sequence)
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
        run.status = word("summary.json: status", summary.get("status", "unfinished"))
        run.excluded = _unusable(run, counts) or why_not_its_config(folder, config, summary, curve)
    if run.excluded is None:
        run.evaluations = read_evaluations(folder, steps_of(config))
    if run.excluded is None and config.get("precision") == "auto" and (stretches := summary.get("stretches")):
        run.precision = word("summary.json: precision", stretches[-1].get("precision", "auto"))


def corpus_of(config: dict[str, Any]) -> str:
    """What stands for the tokenizer of a run that holds no fingerprint of its data."""
    return shown(f"{config.get('data.path')}, {config.get('data.vocab_size')} tokens", 400)


def _unusable(run: Run, counts: dict) -> str | None:
    """Why a run that was read takes no part, by its status and numbers; `counts` is what plan.json has of its
    parameters."""
    if run.status != "finished":
        return f"{run.status}: only finished runs are compared"
    loss, params, tokens = run.nats_per_token, run.total_params, run.tokens
    for what, value in (("held-out loss", loss), ("number of parameters", params), ("number of tokens", tokens)):
        if value is None:
            return f"its {what} is missing or not finite"
        if value <= 0:
            return f"its {what} is {value:g}"
    numbers = {"loss": loss, "params": params, "tokens": tokens, "flops": run.flops}
    for what, value in (numbers | {"kv_bytes_per_token": run.kv_bytes_per_token}).items():
        if why := beyond(what, value):
            return why
    if (planned := number(counts.get("total"))) and planned != params:
        return f"summary.json counts {params:g} parameters, plan.json {planned:g}"
    a_step = (run.config.get("training.batch_size") or 0) * (run.config.get("training.sequence_length") or 0)
    expected = (steps_of(run.config) or 0) * a_step
    if tokens and expected and abs(tokens / expected - 1) > TOKENS_WITHIN:
        return f"summary.json counts {tokens:g} tokens, the steps of config.yaml make {expected:g}"
    return None


def _attention(config: dict, plan: dict, summary: dict) -> str:
    """The one that all files name. Raises ValueError where they name none, or two."""
    files = ("summary.json", summary), ("plan.json", plan)
    named = {file: found["attention"] for file, found in files if "attention" in found}
    if "attention.name" in config:
        named["config.yaml"] = config["attention.name"]
    for file, name in named.items():
        word(f"{file}: attention", name)
    if len(set(named.values())) != 1:
        contradiction = "; ".join(f"{file}: attention is {shown(name)}" for file, name in named.items())
        raise ValueError(contradiction or "no attention is named")
    return shown(next(iter(named.values())))


def _object(file: str, found: dict, part: str) -> dict:
    """The JSON object that a file has under the key `part`; empty where it has none. Raises ValueError."""
    value = found.get(part)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{file}: {part} is no JSON object")
    return value or {}


def _by_position(found: dict) -> dict[int, float]:
    """In order, those that are a position's loss."""
    losses = {
        int(key): loss
        for key, value in list(found.items())[:MOST_BINS]
        if re.fullmatch("[1-9][0-9]{0,9}", key) and (loss := number(value)) is not None and not beyond("loss", loss)
    }
    return dict(sorted(losses.items()))


def _fingerprint(data: dict, key: str) -> str | None:
    """A SHA-256 of a run's data, None where the run holds none. Raises ValueError."""
    value = data.get(key)
    if value is not None and not (isinstance(value, str) and FINGERPRINT.fullmatch(value)):
        raise ValueError(f"summary.json: data.{key} is {shown(value)}, expected a SHA-256")
    return value


def _strings(found: dict) -> dict[str, str | None]:
    """Names and values as they can be shown, the first 50."""
    return {shown(key): value if value is None else shown(value) for key, value in list(found.items())[:50]}


def _above_zero(value: Any) -> float | None:
    """The value where it is a finite number above zero."""
    return found if (found := number(value)) is not None and found > 0 else None
