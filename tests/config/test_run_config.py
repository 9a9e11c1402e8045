"""A run's config.yaml is that run's whole truth."""

import dataclasses
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mfa_train import config as configs
from mfa_train.config.run_config import BEFORE, DERIVED_BEFORE
from mfa_train.errors import ConfigError

DEFAULT = configs.load([])


@settings(max_examples=60, deadline=None)
@given(
    value=st.recursive(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
        | st.text("\n\t \r\x85'\"#:-&*!|>%@,[]{}01eE._\\$~?", max_size=8)
        | st.sampled_from(["${x}", "???", r"\${HOME}", "null", "1e-4", "2026-11-28", "12:30", "yes", "=", "<<", "0o7"])
        | st.integers()
        | st.floats(allow_nan=False)
        | st.booleans()
        | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=5,
    )
)
def test_a_runs_config_gives_back_exactly_what_it_holds(value, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    prompt = value if isinstance(value, str) else "def "
    config = replace(DEFAULT, data=replace(DEFAULT.data, weights=value), sample=replace(DEFAULT.sample, prompt=prompt))
    (folder / "config.yaml").write_text(configs.to_yaml(config), encoding="utf-8")
    assert repr(configs.of_run(folder)) == repr(config)


def test_a_runs_config_is_all_of_it_whatever_a_machines_habits_are(configs_here, monkeypatch):
    run = configs_here.parent / "run"
    run.mkdir()
    tree = dataclasses.asdict(replace(DEFAULT, runs_dir="${oc.env:SECRET}"))
    (run / "config.yaml").write_text(configs.to_yaml(replace(DEFAULT, runs_dir="${oc.env:SECRET}")))
    (configs_here / "local").mkdir()
    (configs_here / "local" / "default.yaml").write_text(
        "# @package _global_\ndata: {tokenizer: /models/llama3/tokenizer.json, lanes: 8, eos_token: x}\nplan: "
        "{cache_dtype: fp8}\n"
    )
    monkeypatch.setenv("SECRET", "hunter2")
    assert configs.load([]).data.lanes == 8  # a habit is one of new runs
    assert dataclasses.asdict(configs.of_run(run)) == tree
    # A key that another version didn't know means what held before it existed.
    old = {
        group: {key: value for key, value in node.items() if f"{group}.{key}" not in {**BEFORE, **DERIVED_BEFORE}}
        if isinstance(node, dict)
        else node
        for group, node in tree.items()
    }
    (run / "config.yaml").write_text(yaml.safe_dump({group: node for group, node in old.items() if node != {}}))
    assert dataclasses.asdict(configs.of_run(run)) == tree
    (configs_here / "local" / "default.yaml").write_text("runs_dir: [a\n")
    assert configs.of_run(run, [r"sample.prompt=a, \${b}"]).sample.prompt == "a, ${b}"


@pytest.mark.parametrize("then, now", [("false", "none"), ("true", "full")])
def test_activation_checkpointing_of_a_run_that_had_true_or_false_is_a_word(then, now, tmp_path):
    """In its config.yaml, and typed."""
    key = "training.activation_checkpointing"
    text = configs.to_yaml(configs.load([]))
    assert f"{key.split('.')[1]}: none" in text
    (tmp_path / "config.yaml").write_text(text.replace("checkpointing: none", f"checkpointing: {then}"))
    assert configs.of_run(tmp_path).training.activation_checkpointing == now
    assert configs.plain(tmp_path)["training"]["activation_checkpointing"] == now
    assert configs.load([f"{key}={then}"]).training.activation_checkpointing == now
    with pytest.raises(ConfigError, match=f"^{key}=half: expected"):
        configs.load([f"{key}=half"])
    with pytest.raises(ConfigError, match="^training.activation_checkpointing=selective with training.compile=true"):
        configs.load([f"{key}=selective", "training.compile=true"])
