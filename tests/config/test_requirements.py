"""Extremes of every number, and names: taken, or refused in one line with the bound, before anything is started."""

import contextlib
import dataclasses
import re

import pytest

from mfa_train import config as configs
from mfa_train.attention import attention_config
from mfa_train.config.typed import flat
from mfa_train.errors import ConfigError
from mfa_train.feed_forward import feed_forward_config

CONFIG = configs.load([])
NAN, INF = float("nan"), float("inf")


def with_value(key: str, value: object) -> object:
    """What the config's dataclass makes of one value, as typed for `key`."""
    *nodes, field = key.split(".")
    node = CONFIG
    for name in nodes:
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    if nodes[-1:] == ["feed_forward"]:
        return feed_forward_config(node | {field: value})
    if isinstance(node, dict):
        return attention_config(node | {field: value})
    return dataclasses.replace(node, **{field: value})


TOO_MUCH = [
    ("seed", -1),
    ("seed", 2**64),
    ("sample.temperature", 1e-40),
    ("sample.temperature", NAN),
    ("sample.temperature", INF),
    ("sample.max_new_tokens", 10**9),
    ("sample.top_k", 10**20),
    ("sample.top_p", 1e-300),
    ("sample.top_p", NAN),
    ("data.lanes", 99999999999),
    ("data.shuffle_tokens", 10**30),
    ("data.vocab_size", 10**18),
    ("data.cache_bytes", 10**30),
    ("training.batch_size", 10**20),
    ("training.micro_batch_size", 10**20),
    ("training.steps", 10**30),
    ("training.steps", 10**15),
    ("training.sequence_length", 10**15),
    ("training.log_every", 10**18),
    ("training.eval_every", 10**18),
    ("training.eval_sequences", 10**18),
    ("training.z_loss", INF),
    ("training.gradient_clipping", NAN),
    ("model.vocab_size", 10**18),
    ("model.hidden_size", 10**12),
    ("model.num_hidden_layers", 10**9),
    ("model.intermediate_size", 10**12),
    ("model.head_dim", 10**12),
    ("model.num_attention_heads", 10**12),
    ("model.learning_rate", NAN),
    ("model.rms_norm_eps", INF),
    ("model.rms_norm_eps", NAN),
    ("model.rms_norm_eps", 0.0),
    ("attention.head_dim", 10**12),
    ("attention.rope_theta", NAN),
    ("attention.rope_theta", INF),
    ("attention.rope_scaling", {"rope_type": "linear", "factor": NAN}),
    ("optimizer.lr", INF),
    ("optimizer.lr", NAN),
    ("optimizer.eps", 0.0),
    ("optimizer.eps", -1.0),
    ("optimizer.eps", NAN),
    ("optimizer.betas", [NAN, 0.9]),
    ("optimizer.weight_decay", INF),
    ("schedule.warmup_steps", -1),
    ("schedule.min_lr_ratio", NAN),
    ("guard.hang_seconds", 1e300),
    ("guard.hang_seconds", 0.0),
    ("guard.hang_seconds", NAN),
    ("guard.spike_window", 10**12),
    ("guard.spike_factor", NAN),
    ("guard.max_rollbacks", 10**30),
    ("checkpoint.every_minutes", 1e308),
    ("checkpoint.every_minutes", NAN),
    ("checkpoint.every_steps", 10**30),
    ("checkpoint.keep_last", 10**30),
    ("checkpoint.at_steps", [10**30]),
    ("cluster.nodes", 10**9),
    ("cluster.devices_per_node", 10**9),
    ("cluster.price_per_device_hour", NAN),
    ("cluster.port", 10**6),
    ("cluster.time_limit", "٣:00"),
    ("cluster.time_limit", "9" * 40),
    ("sweep.parallel", 10**9),
    ("sweep.retries", 10**18),
    ("plan.context", 10**18),
    ("plan.mfu", NAN),
    ("match.params", NAN),
    ("match.params", 1e30),
    ("match.kv_bytes_per_token", 10**30),
    ("match.multiple_of", 10**18),
    ("data.held_out_fraction", NAN),
]


@pytest.mark.parametrize("key, value", TOO_MUCH)
def test_what_overflows_or_is_no_number_is_refused_with_what_is_expected(key, value):
    with pytest.raises(
        ConfigError, match=rf"^{re.escape(key.split('.')[0])}.*expected|more than a run can count"
    ) as error:
        with_value(key, value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "key, value",
    [
        ("seed", 2**64 - 1),
        ("sample.temperature", 0.0),
        ("sample.temperature", 1e6),
        ("data.lanes", 2**16),
        ("training.steps", 10**14),
        ("training.eval_every", 10**15),
        ("checkpoint.every_minutes", 1e-9),
        ("guard.hang_seconds", 1e9),
        ("optimizer.eps", 1e-30),
        ("optimizer.lr", 0.0),
        ("plan.context", 2**40),
        ("cluster.time_limit", "2-12:00:00"),
    ],
)
def test_extremes_that_work_are_taken(key, value):
    with_value(key, value)


ODD = {
    int: [-1, 0, 2**31, 2**63, 2**64, 10**30],
    float: [-1.0, 0.0, NAN, INF, -INF, 1e-320, 1e308],
    str: [
        "",
        "\udc80",
        "a\nb",
        "x" * 5000,
        "\x1b[31m",
        "~nobody-of-that-name/x",
        "~",
        "s3://b",
        "a::b",
        "//",
        "/",
        "." * 300,
        "a\0b",
    ],
}


def test_no_odd_value_of_any_key_ends_in_anything_but_one_line():
    tried = 0
    for key, usual in flat(dataclasses.asdict(CONFIG)).items():
        for value in ODD.get(type(usual), []) if not key.startswith("attention.") else ():
            tried += 1
            with contextlib.suppress(ConfigError):
                try:
                    with_value(key, value)
                except ConfigError as error:
                    assert "\n" not in str(error), (key, value)
                    raise
    assert tried > 300


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "-x", "~x", " x", "x ", "a/b", "a\nb", "a\x1b[31m", "a\0", "\udc80", "x" * 201, "é" * 101],
)
def test_a_name_that_makes_no_plain_folder_is_refused_in_one_line(name):
    for key in ("name", "data.name"):
        if "/" not in name or key == "name":  # the corpus's may name folders below each other
            with pytest.raises(ConfigError, match=f"^{key}=") as error:
                with_value(key, name)
            assert str(error.value).isprintable()
    for good in ("it's $(touch pwned); 100%n", "Ünïcödé 名前", "x" * 200, "mfa-nano~1"):
        assert with_value("name", good).name == good


@pytest.mark.parametrize(
    "key, name",
    [
        ("project", "team/llm"),
        ("project", "a:b"),
        ("project", "x" * 129),
        ("project", ""),
        ("entity", "no/such"),
        ("group", "x" * 129),
        ("group", "a\nb"),
        ("group", " "),
    ],
)
def test_a_name_that_wandb_refuses_is_refused_before_the_start(key, name):
    with pytest.raises(ConfigError, match=f"^tracking.{key}="):
        with_value(f"tracking.{key}", name)
    assert with_value(f"tracking.{key}", "Team LLM-2_x.y")
