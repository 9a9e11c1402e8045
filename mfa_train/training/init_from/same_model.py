"""Whether the config's model is the one whose weights `init_from` names, as told before anything expensive starts.

What would make other outputs of the same weights is refused: every key of shape, the norms' eps, the rotated pairs, the
tied head, how a router chooses. What is changed on purpose is told instead: where a context grows how positions are
rotated, and how many; how experts are balanced.
"""

import dataclasses
from typing import Any

from mfa_train import config as configs
from mfa_train.attention import attention_config
from mfa_train.config import Config, default_attention, default_feed_forward
from mfa_train.errors import ConfigError
from mfa_train.training.init_from.source import Folder, Source

BIAS = "model.feed_forward.bias_update_speed"
BALANCING = (BIAS, "model.feed_forward.router_aux_loss_coef", "model.feed_forward.router_z_loss_coef")
TOLD = ("model.max_position_embeddings", "attention.rope_theta", "attention.rope_scaling", *BALANCING)
"""Keys that may differ; a bias only by how fast it moves."""
MOST_LISTED = 10


def require_same_model(source: Source) -> list[str]:
    """What is to be told of the difference. Raises ConfigError where they are no one model, with all that differs and
    the keys that would make them one."""
    config = source.config
    model, attention = _its_model(source)
    ours, theirs = attention_config(config.attention), attention_config(attention)
    fits = ours.name in source.attentions
    differing, told = {}, []
    kinds = [one.feed_forward["name"] for one in (config.model, model)]
    for key in (*source.overrides, "attention.num_key_value_heads"):
        group, _, name = key.partition(".")
        of_kind = name.startswith("feed_forward.")
        if not name or (group == "attention" and not fits) or (of_kind and kinds[0] != kinds[1]):
            continue
        parts: tuple[Any, Any] = (config.model, model) if group == "model" else (ours, theirs)
        here, there = (
            part.feed_forward.get(name.partition(".")[2]) if of_kind else getattr(part, name, None) for part in parts
        )
        if here != there:
            line = f"{key} is {configs.written(_plain(here))} here and {configs.written(_plain(there))} there"
            if key in TOLD and (key != BIAS or bool(here) == bool(there)):
                told.append(line)
            else:
                differing[key] = line
    told += _of_original_length(ours.rope_scaling, theirs.rope_scaling, *source.length)
    lines = [] if fits else [f"attention is {ours.name} here and {theirs.name} there"]
    if kinds[0] != kinds[1]:
        differing["feed_forward"] = f"feed_forward is {kinds[0]} here and {kinds[1]} there"
        usual = default_feed_forward(kinds[1])
        differing |= {
            key: ""
            for key, value in source.overrides.items()
            if key.startswith("model.feed_forward.") and value != usual[key.rpartition(".")[2]]
        }
    lines += [*filter(None, differing.values()), *_weights_that_differ(source)]
    if not lines:
        _require_sayable(source, dataclasses.replace(config, model=model, attention=attention))
        return told
    listed = "; ".join(lines[:MOST_LISTED]) + (
        f"; and {len(lines) - MOST_LISTED:,} more" if lines[MOST_LISTED:] else ""
    )
    raise ConfigError(f"init_from={source.path}: its model is another: {listed}; {_instead(source, fits, differing)}")


def _of_original_length(ours: Any, theirs: Any, key: str, length: int) -> list[str]:
    """Where a scaling begins that counts from another length than the source's, which its `key` says."""
    original = ours and ours.original_max_position_embeddings
    if theirs is not None or original in (None, length):
        return []
    return [
        f"attention.rope_scaling.original_max_position_embeddings is {original} here, and the source's {key} is "
        f"{length}; type the length that it was trained on"
    ]


def _its_model(source: Source) -> tuple[Any, dict[str, Any]]:
    """`model` and the node `attention` of the source's model, with the config's own where it says nothing."""
    parts = {name.partition(".")[2]: value for name, value in source.overrides.items() if name.startswith("model.")}
    of_kind = {name.partition(".")[2]: parts.pop(name) for name in list(parts) if name.startswith("feed_forward.")}
    kind, ours = source.overrides.get("feed_forward", "dense"), source.config.model
    usual = ours.feed_forward if ours.feed_forward["name"] == kind else default_feed_forward(kind)
    model = dataclasses.replace(ours, **parts, feed_forward=usual | of_kind)
    node = default_attention(source.overrides["attention"], model)
    node["kernel"] = source.config.attention["kernel"]
    return model, node | {
        key.partition(".")[2]: value for key, value in source.overrides.items() if key.startswith("attention.")
    }


def _weights_that_differ(source: Source) -> list[str]:
    here, there, lines = source.expected, source.shapes, []
    for name in (*here, *(name for name in there if name not in here)):
        if here.get(name) != there.get(name):
            ours, theirs = (list(side[name]) if name in side else "none" for side in (here, there))
            lines.append(f"{name}: {ours} here, {theirs} there")
    return lines


def _instead(source: Source, fits: bool, differing: dict[str, str]) -> str:
    """What to type."""
    config, name = source.config, source.overrides["attention"]
    model, _ = _its_model(source)
    keys = [key for key in source.overrides if key in differing]
    words = []
    if not fits or any(
        key.startswith("attention.") and key.partition(".")[2] not in config.attention for key in differing
    ):
        words = [f"attention={name}"]
        usual = default_attention(name, model)
        of_attention = [key for key in source.overrides if key.startswith("attention.")]
        keys = [key for key in keys if key not in of_attention] + [
            key for key in of_attention if source.overrides[key] != usual[key.partition(".")[2]]
        ]
    for key in keys:
        value = source.overrides[key]
        if key == "model.vocab_size" and value < config.data.vocab_size == config.model.vocab_size:
            key = "data.vocab_size"  # which the model's follows, and which may not be larger
        words.append(f"{key}={configs.written(value)}")
    if not words:
        return "its config.json and its weights do not go together, or it has what the models here lack: name another"
    matched = ", and nothing of match.*, which shapes the model" if config.match.wanted else ""
    return f"type {' '.join(words)}{matched}"


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _require_sayable(source: Source, config: Config) -> None:
    """Raises ConfigError where the source's form has what our models compute otherwise, as an eps that it has for more
    norms."""
    if isinstance(source, Folder):
        try:
            type(source.form)(config).settings()
        except ConfigError as error:
            raise ConfigError(f"init_from={source.path}: {error}") from error
