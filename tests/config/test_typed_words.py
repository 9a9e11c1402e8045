"""What is typed is what was meant, or one line that says what is wrong."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mfa_train import config as configs
from mfa_train.attention import attention_config
from mfa_train.config.hydra_errors import all_keys
from mfa_train.errors import ConfigError, UserError


@pytest.mark.parametrize("key", ["name", "data.name", "tracking.group", "sample.prompt"])
@pytest.mark.parametrize(
    "text", ["2026_11_28", "1e-4", "12e5", "1_000", "true", "007", "inf", "0x10", "a=b", "a (b), [c", "it's"]
)
def test_text_for_a_key_of_text_arrives_as_typed(key, text):
    config = configs.load([f"{key}={text}"])
    for part in key.split("."):
        config = getattr(config, part)
    assert config == text


def test_quotes_escapes_and_null_keep_their_meaning():
    for typed, prompt in (
        ("'1e-4'", "1e-4"),
        (r"echo \${HOME}", "echo ${HOME}"),
        (r'"echo \${HOME}"', "echo ${HOME}"),
        ("???", "???"),
        ("'???'", "???"),
        (" a ", " a "),
        ("a\nb", "a\nb"),
        ("${model.name}!", "nano!"),
        ("'null'", "null"),
    ):
        assert configs.load([f"sample.prompt={typed}"]).sample.prompt == prompt
    assert configs.load(["tracking.group=null"]).tracking.group is None
    assert configs.load(["data.files=[a b,c=d,[ab]*.txt,'x, y',1e4]"]).data.files == [
        "a b",
        "c=d",
        "[ab]*.txt",
        "x, y",
        "1e4",
    ]
    assert configs.load(["plan.mfu=runs/mfa-nano-seed=1,x"]).plan.mfu == "runs/mfa-nano-seed=1,x"
    for typed, told in (
        ("name=null", "name=null: expected text: leave it out"),
        ("name=${HOME}", r"name: .*'HOME' not found; .* type \\\$\{ for"),
        ("precision=bf16,fp32", "several values are a sweep: type -m"),
        ("name=\udcff", "not UTF-8"),
    ):
        with pytest.raises(ConfigError, match=told):
            configs.load([typed])


@settings(max_examples=15, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    | st.text("'\"\\${}[](),=:?~ \nn1e_", max_size=12)
)
def test_what_is_handed_on_to_another_process_arrives_as_it_was(text):
    weights = {"a": [1e-5, None, {"b": True}, "1e-4", "c, d"]}
    config = configs.load([f"sample.prompt={configs.written(text)}", f"data.weights={configs.written(weights)}"])
    assert config.sample.prompt == text and config.data.weights == weights


def test_members_swept_over_text_are_handed_on_as_they_are_with_names_that_fit_and_stay_apart():
    long = "x" * 300
    for typed in (
        "name=2026_11_28,1e-4",
        f"sample.prompt='{long}',{long}y,漢{long}",
        r"sample.prompt=a b,c=d,\${HOME},'e,f',g\,h",
        "data.files=[a b],[c,d]",
    ):
        members = configs.members([typed])
        assert len({member.config.name for member in members}) == len(members) > 1
        for member in members:
            assert len(member.config.name.encode()) <= 200 and configs.load(member.overrides) == member.config
    assert [member.config.name for member in configs.members(["name=2026_11_28,1e-4"])] == ["2026_11_28", "1e-4"]
    assert [member.config.name for member in configs.members(["tracking.group=1,2"])] == [
        "mfa-nano-tracking.group=1",
        "mfa-nano-tracking.group=2",
    ]
    for typed in ("seed=range(0,1000000000)", "seed=range(1,9,0)", "seed=range(5,1)", "sweep.over={seed: []}"):
        with pytest.raises(ConfigError):
            configs.members([typed])


def test_whole_numbers_have_exponents_and_bytes_units_wherever_one_is_expected():
    config = configs.load(
        [
            "checkpoint.every_steps=1e2",
            "training.batch_size=1.0e1",
            "data.vocab_size=1e3",
            "seed=1_000",
            "checkpoint.at_steps=[1e1,2e1]",
            "attention.head_dim=1e2",
            "data.shard_bytes=64MiB",
            "data.cache_bytes=1e8",
            "data.tokenizer_bytes=1.5GB",
            "training.tokens=1e17",
            "training.steps=null",
        ]
    )
    assert (config.checkpoint.every_steps, config.training.batch_size, config.model.vocab_size, config.seed) == (
        100,
        10,
        1000,
        1000,
    )
    assert (config.data.shard_bytes, config.data.cache_bytes, config.data.tokenizer_bytes) == (
        2**26,
        10**8,
        1_500_000_000,
    )
    assert (
        config.checkpoint.at_steps == [10, 20]
        and config.attention["q_lora_rank"] == 100
        and config.training.tokens == 10**17
    )
    assert config.data.path.endswith("-1000") and type(config.attention["head_dim"]) is int
    for typed in (
        "data.vocab_size=1.5",
        "data.vocab_size=1e-3",
        "model.head_dim=abc",
        "data.shard_bytes=1.5",
        "seed=true",
        "checkpoint.at_steps=[1.5]",
        "data.lanes=1e400",
        "data.vocab_size=-5",
    ):
        with pytest.raises(ConfigError, match=re.escape(typed.split("=")[0])) as told:
            configs.load([typed])
        assert "whole number" in str(told.value)


@pytest.mark.parametrize(
    "typed, told",
    [
        ("lr=1e-3", "lr: no such key. Did you mean 'optimizer.lr'?"),
        ("training.lr=1", "Did you mean 'optimizer.lr'?"),
        ("zzz=1", " in all)."),
        ("model=null", "model=null: "),
        ("~model", "model.name is missing"),
        ("training=5", "training=5: expected keys"),
        ("hydra.run.dir=x", "Hydra's own settings are fixed here"),
        ("attention={a: 1}", "attention.a: no such key"),
        (f"model={'x' * 300}", "no such choice"),
        ("sample.prompt=a ${", "type \\${"),
        ("deepspeed.wall_clock_breakdown=true", "type +deepspeed.wall_clock_breakdown=true"),
        ("deepspeed.zero_optimization.overlap_comm=true", "type +deepspeed.zero_optimization.overlap_comm=true"),
        ("deepspeed={wall_clock_breakdown: true}", "type +deepspeed.wall_clock_breakdown=…"),
        ("deepspeed.optimizer.lr=3", "deepspeed.optimizer.lr=3: expected nothing here, as the run sets it"),
        ("deepspeed.walclock=1", "deepspeed.walclock: no such key. Did you mean 'wall_clock_breakdown'?"),
        ("+deepspeed=5", "+deepspeed=5: deepspeed is there already: type +deepspeed.KEY=VALUE"),
        ("+seed=5", "+seed=5: seed is there already: type seed=5"),
        ("training.steps=１２", "'１' (FULLWIDTH DIGIT ONE) is none of the plain letters, digits"),
        ("+deepspeed.é=1", "'é' (LATIN SMALL LETTER E WITH ACUTE) is none of the plain letters"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_short_line(typed, told):
    with pytest.raises(ConfigError, match=re.escape(told)) as error:
        attention_config(configs.load([typed]).attention)
    assert len(str(error.value)) < 700 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "typed, told",
    [
        (["attention=mha", "attention.q_rank=3"], "attention.q_rank=3: attention=mha has no such key: type attention="),
        (
            ["attention=gqa", "attention={q_rank: 3}"],
            "attention.q_rank: attention=gqa has no such key: type attention=",
        ),
        (
            ["attention=mfa", "+attention.q_rank=3"],
            "attention.q_rank=3: attention=mfa has no such key: type attention=",
        ),
    ],
)
def test_of_a_key_that_other_attentions_have_these_are_told(typed, told):
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}.*tpa, which ha.* it, or leave it out$"):
        attention_config(configs.load(typed).attention)


@pytest.mark.parametrize(
    "typed, told",
    [
        ("attention.output_gate=heads", "attention.output_gate=heads: expected one of none, head, element"),
        ("attention.latent_norm_eps=-1", "expected a number above 0 and at most 1, as 1e-6"),
        ("attention.latent_norm_eps=nan", "expected a number above 0 and at most 1, as 1e-6"),
    ],
)
def test_gates_and_norms_that_cannot_be_are_told_with_what_can(typed, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        attention_config(configs.load(["attention=mla", typed]).attention)


KEYS = [*all_keys(), "foo", "", "a.b", "data@x", "attention@model", "hydra/launcher", "_target_"]
VALUES = [
    "",
    "0",
    "-1",
    "1e400",
    "nan",
    "1e308",
    "9" * 5000,
    "[]",
    "{}",
    "[[1]]",
    "{a: b}",
    "a,b",
    "choice(1,2)",
    "range(1,1e9)",
    "range(0,1,0)",
    "glob(*)",
    "interval(1,2)",
    "json_str([1])",
    "extend_list(1)",
    "int(x)",
    "${seed}",
    "${",
    "${times:1e308,9}",
    "${oc.env:NO_SUCH}",
    "${model}",
    r"\${x}",
    "???",
    "null",
    "~",
    "'",
    '"a',
    "a=b",
    "[a",
    "{a",
    "\\",
    "\x1b[31m",
    "\0",
    "\udcff",
    "x" * 300,
    "[" * 200,
    "(" * 200,
    "{a:" * 60,
    "64MiB",
    "{mha: {}}",
    "[{model: [1]}]",
    "{seed: [1,2]}",
    "{1: [2]}",
]


@settings(max_examples=40, deadline=10_000, suppress_health_check=list(HealthCheck))
@given(
    words=st.lists(
        st.builds(
            "{}{}={}".format,
            st.sampled_from(["", "", "", "+", "++", "~"]),
            st.sampled_from(KEYS),
            st.sampled_from(VALUES) | st.text("ab1.,:=(){}[]'\"\\$ ~@é\n_-", max_size=8),
        ),
        min_size=1,
        max_size=3,
    ),
    read=st.sampled_from([configs.load, configs.load, configs.members]),
)
def test_whatever_is_typed_is_a_config_or_one_line(words, read):
    try:
        read(words)
    except UserError as error:
        assert str(error)
