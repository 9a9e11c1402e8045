"""README.md of an export, a model card as the Hugging Face Hub reads it: what the model is and of what it was made, its
loss, how it is loaded. It names no place of the machine it was made on."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from mfa_train.budget.shape import measure
from mfa_train.checkpoints.tensor_files import EMA
from mfa_train.checkpoints.weights import RunWeights
from mfa_train.config import Config, flat, written
from mfa_train.config.effects import BOOKKEEPING, OBSERVATION
from mfa_train.config.secrets import may_hold_secret
from mfa_train.config.yaml_file import to_yaml
from mfa_train.export.formats import Format, type_name
from mfa_train.tracking.metrics_file import FILE as METRICS
from mfa_train.tracking.records import backwards, number, read_object, sound
from mfa_train.words import printable

LEFT_OUT = (*BOOKKEEPING, *OBSERVATION, "plan.", "match.")
"""Beginnings of keys that say nothing of the weights that the others don't."""
NOT_RECORDED = "not recorded"
PLAIN = re.compile(r"[\w.+:/ -]{1,100}", re.ASCII)


def model_card(
    run: Path, form: Format, weights: RunWeights, dtype: torch.dtype, sums: Mapping[str, str], tokenizer_sha256: str
) -> bytes:
    """Of the state `weights` of `run`, exported in `form` and `dtype`. `sums`: SHA-256 of the weights' files."""
    config = form.config
    summary = _object(run / "summary.json")
    origin = summary if weights.is_final else weights.manifest
    parts = [
        f"---\n{to_yaml(_front_matter(form))}---",
        f"# {_code_free(config.name)}",
        f"A language model with attention `{form.attention.name}`, pretrained with mfa_train: the weights after step "
        f"{weights.step:,} of {config.training.total_steps:,}, in {type_name(dtype)}.{_averaged(weights)}",
        _table(
            {
                **_model(form, weights.sequence_length),
                "data": _data_name(config),
                "tokens seen": f"{weights.tokens:,}",
                "held-out loss": _loss(run, weights, summary),
            }
        ),
        "## Loading it",
        _loading(form),
        "## Where it comes from",
        _table(
            {
                "code": f"commit {_plain(origin.get('code_commit'))}",
                **_began_with(dict(_mapping(origin, "init_from"))),
                "versions": ", ".join(f"{_plain(key)} {_plain(value)}" for key, value in _mapping(origin, "versions"))
                or NOT_RECORDED,
                "tokenizer, SHA-256": f"`{tokenizer_sha256}`",
                **_data_sums(summary, weights),
            }
        ),
        "Its config, places and bookkeeping left out:",
        f"```yaml\n{to_yaml(config_without_places(config))}```",
        "Its weights:",
        _table({f"`{file}`": f"`{digest}`" for file, digest in sums.items()}, ("file", "SHA-256")),
    ]
    return ("\n\n".join(parts) + "\n").encode()


def config_without_places(config: Config) -> dict[str, Any]:
    """What of a run's config says what its weights are: no folder of the machine, nothing that may be a secret."""
    tree: dict[str, Any] = {}
    for key, value in flat(dataclasses.asdict(config)).items():
        if not key.startswith(LEFT_OUT):
            *groups, last = key.split(".")
            node = tree
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = _without_place(value)
    return tree


def _without_place(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_place(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_place(one) for one in value]
    if not isinstance(value, str):
        return value
    if may_hold_secret(value):
        return "(not repeated here)"
    scheme, separator, path = value.rpartition("://")
    if separator and not re.search(r"(^|::)(file|local)$", scheme):
        return value
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    if posix.is_absolute() or path.startswith("~") or ".." in posix.parts or windows.drive:
        return (windows if windows.drive else posix).name
    return value


def _front_matter(form: Format) -> dict[str, Any]:
    data = form.config.data
    on_the_hub = data.source == "hub" and re.fullmatch(r"[\w.-]+/[\w.-]+", data.dataset or "", re.ASCII)
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mfa_train", form.attention.name] + (["custom_code"] if form.remote_code else []),
        **({"datasets": [data.dataset]} if on_the_hub else {}),
    }


def _model(form: Format, sequence_length: int) -> dict[str, str]:
    model = form.model
    shape = measure(model, form.config.attention)
    keys = {key: value for key, value in form.config.attention.items() if type(value) is int}
    sizes = {"num_hidden_layers": model.num_hidden_layers, "hidden_size": model.hidden_size}
    sizes |= {"intermediate_size": model.intermediate_size, "vocab_size": model.vocab_size}
    active = f"; a token meets {shape.active_params:,} of them" if shape.active_params != shape.params else ""
    return {
        "parameters": f"{shape.params:,} ({shape.params - shape.embedding_params:,} without embeddings){active}",
        "shape": ", ".join(f"{key} {value:,}" for key, value in sizes.items()),
        f"attention {form.attention.name}": ", ".join(f"{key} {value:,}" for key, value in keys.items()),
        **({"experts": _listed(model.feed_forward)} if form.has_experts else {}),
        "KV cache": f"{shape.cache_bytes('bf16'):,} bytes per token in bf16 "
        f"({shape.cache_values_per_layer:,} values in each of {shape.layers:,} layers)",
        "context": f"trained on {sequence_length:,} tokens; positions up to {model.max_position_embeddings:,}",
    }


def _listed(keys: Mapping[str, Any]) -> str:
    """Of a node of the config all but its name."""
    return ", ".join(f"{key} {written(value)}" for key, value in keys.items() if key != "name")


def _data_name(config: Config) -> str:
    data = config.data
    if data.source == "mixture" and data.corpora:
        return ", ".join(f"`{_code_free(name)}`" for name in data.corpora)
    what = f", {_code_free(str(_without_place(data.dataset)))}" if data.source == "hub" else ""
    return f"`{_code_free(data.name)}` ({data.source}{what})"


def _began_with(source: dict[str, Any]) -> dict[str, str]:
    """What `init_from` named, where the run began with weights: `tokens seen` doesn't count theirs."""
    return {"began with weights": f"{_plain(source.get('kind'))}, `{_plain(source.get('sha256'))}`"} if source else {}


def _data_sums(summary: dict, weights: RunWeights) -> dict[str, str]:
    """As the run's end tells them; of one that has not ended, as a checkpoint tells what its samples depend on."""
    ended = {key: value for key, value in _mapping(summary, "data") if key != "tokenizer_sha256"}
    told = ended or {key: value for key, value in _mapping(weights.manifest, "data") if " of corpus " in key}
    return {f"data, {_plain(key)}": f"`{_plain(value)}`" for key, value in told.items()}


def _averaged(weights: RunWeights) -> str:
    """What averaged weights are, where they are."""
    if not weights.averaged:
        return ""
    decay = weights.manifest.get(EMA, weights.config.training.ema)
    return (
        f" They are no single step's weights but their exponential moving average (`training.ema={decay}`), and the "
        "held-out loss is the average's."
    )


def _loss(run: Path, weights: RunWeights, summary: dict) -> str:
    record, val = _record_of(run / METRICS, weights.step), "val_ema" if weights.averaged else "val"
    loss, bits = number(record.get(f"{val}/loss")), number(record.get(f"{val}/bits_per_byte"))
    if loss is None and weights.is_final:
        loss, bits = number(summary.get(f"{val}_loss")), number(summary.get(f"{val}_bits_per_byte"))
    if loss is None:
        return "not evaluated at this step"
    return f"{loss:.4f} nats per token" + ("" if bits is None else f", {bits:.4f} bits per byte")


def _record_of(path: Path, step: int) -> dict:
    """The step's record in metrics.jsonl, looked for from the end; empty where there is none."""
    try:
        with path.open("rb") as file:
            for _, line in backwards(file):
                for _, _, record in sound(line):
                    if record and record["step"] <= step:
                        return record if record["step"] == step else {}
    except OSError:
        pass
    return {}


def _loading(form: Format) -> str:
    trusted = ", trust_remote_code=True" if form.remote_code else ""
    parts = [
        f"In transformers, as {form.loads}; `FOLDER` is the folder of this file:",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("FOLDER"{trusted})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trusted})\n'
        'text = model.generate(**tokenizer("The ", return_tensors="pt"), max_new_tokens=32)\n'
        "print(tokenizer.decode(text[0], skip_special_tokens=True))\n```",
    ]
    parts += ["In vLLM:\n\n```\nvllm serve FOLDER\n```"] if form.served_by_vllm else []
    return "\n\n".join(parts)


def _table(rows: Mapping[str, str], head: tuple[str, str] = ("", "")) -> str:
    lines = [head, ("---", "---"), *rows.items()]
    return "\n".join(f"| {name} | {value} |" for name, value in lines)


def _object(path: Path) -> dict:
    """The JSON object in a run's file; empty where it is missing or damaged."""
    try:
        return read_object(path) or {}
    except OSError:
        return {}


def _mapping(origin: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    value = origin.get(key)
    return list(value.items()) if isinstance(value, dict) else []


def _plain(value: Any) -> str:
    """What a run's file holds where a plain word or number belongs."""
    return str(value) if isinstance(value, (str, int)) and PLAIN.fullmatch(str(value)) else NOT_RECORDED


def _code_free(name: str) -> str:
    """A name, without what Markdown would take for its own."""
    return re.sub(r"[`|\\<>\[\]]", "", printable(name))
