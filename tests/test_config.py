"""Every choice composes, and so does every command that the documentation shows; what is typed or written into a file
is what was meant, or one line that says what is wrong."""

import dataclasses
import re
import shlex
import shutil
from dataclasses import replace

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mfa_train import config as configs
from mfa_train.attention import attention_config
from mfa_train.budget.plan import make_plan
from mfa_train.config import compose
from mfa_train.config.hydra_errors import all_keys
from mfa_train.config.run_config import BEFORE, DERIVED_BEFORE
from mfa_train.errors import ConfigError, UserError
from tests.conftest import ROOT, VARIANTS

DEFAULT = configs.load([])

CHOICES = sorted(
    f"{path.parent.name}={path.stem}" for path in (ROOT / "configs").glob("*/*.yaml") if path.parent.name != "local"
)
DOCUMENTED = sorted(
    {
        line.strip()
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(python|torchrun .*) ?train\.py ", line) and " -m " not in line
    }
)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes(choice):
    config = configs.load([choice])
    attention_config(config.attention)
    assert config.training.total_steps > 0


@pytest.mark.parametrize("attention", VARIANTS)
@pytest.mark.parametrize("size, millions", [("125m", 125), ("350m", 350), ("1b", 1300), ("3b", 2900), ("7b", 6700)])
def test_sizes_are_what_they_are_called(size, millions, attention):
    """With a vocabulary of 32,000; the variants that save parameters in attention are not matched yet."""
    plan = make_plan(configs.load([f"model={size}", f"attention={attention}", "model.vocab_size=32000"]))
    assert 0.65 * millions < plan["params"]["total"] / 1e6 < 1.35 * millions


@pytest.mark.parametrize("command", DOCUMENTED)
def test_documented_commands_compose(command):
    words = shlex.split(command.split(" #")[0])
    overrides = words[words.index("train.py") + 1 :]
    configs.load([word for word in overrides if not word.startswith("--") and "NAME" not in word and word != "…"])


@pytest.fixture
def configs_here(tmp_path, monkeypatch):
    """A copy of configs/ in a folder to work in."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("local"))
    monkeypatch.setattr(compose, "CONFIG_DIR", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "configs"


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
        ("~model", "model is missing"),
        ("training=5", "training=5: expected keys"),
        ("hydra.run.dir=x", "Hydra's own settings are fixed here"),
        ("attention={a: 1}", "attention.a: no such key"),
        (f"model={'x' * 300}", "no such choice"),
        ("sample.prompt=a ${", "type \\${"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_short_line(typed, told):
    with pytest.raises(ConfigError, match=re.escape(told)) as error:
        attention_config(configs.load([typed]).attention)
    assert len(str(error.value)) < 700 and "\n" not in str(error.value)


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


BROKEN = {  # what is in the file: what the line says
    b"# @package _global_\noptimizer:\n\tlr: 1e-4\n": "line 3: a tab where YAML wants spaces",
    b"# @package _global_\nruns_dir: [a\n": "line 2",
    b"# @package _global_\n# caf\xe9\n": "line 2: the byte 0xe9 is not UTF-8",
    b"\xef\xbb\xbf# @package _global_\nseed: 1\n": "byte order mark",
    "# @package _global_\nseed: 1\n".encode("utf-16"): "UTF-16",
    b"# @package _global_\n- a\n": "line 2: a list, where keys",
    b"# @package _global_\nseed: 1\nseed: 2\n": "line 3: the key seed stands twice",
    b"# @package _global_\na: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
    ): "its aliases make more than",
    b"# @package _global_\na: &a [*a]\n": "its aliases make more than",
    b"# @package _global_\na: " + b"[" * 10**5: "nest",
    b"# @package _global_\na: '" + b"x" * 2**23 + b"'": "larger than",
    b"# @package _global_\nname: !!python/object/apply:os.getcwd []\n": "line 2: the tag",
    b"# @package _global_\nseed: " + b"9" * 5000: "a number of 5,000 digits",
    b"# @package _global_\na: \x1b[31m\n": "line 2: the character 27",
}


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: BROKEN[content])
def test_a_broken_file_is_told_by_name_and_line(content, configs_here):
    run = configs_here.parent / "run"
    run.mkdir()
    (run / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"run/config.yaml: not a run's config .*{re.escape(BROKEN[content])}"):
        configs.of_run(run)
    (configs_here / "experiment" / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^configs/experiment/mine.yaml.*{re.escape(BROKEN[content])}") as told:
        configs.load(["experiment=mine"])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "content, told",
    [
        ("optimizer:\n  lr: 1e-4\n", "configs/experiment/mine.yaml: its first line must be # @package _global_"),
        (
            "# @package _global_\noptimizer:\n  lrr: 1e-4\n",
            "mine.yaml, line 3: optimizer.lrr: no such key. Did you mean 'optimizer.lr'?",
        ),
        (
            "# @package _global_\ntraining: {batch_size: 1.5}\n",
            "mine.yaml, line 2: training.batch_size=1.5: expected a whole number",
        ),
        ("# @package _global_\nname: 2026_11_28\n", "mine.yaml, line 2: name=20261128: expected text: in quotes"),
        (
            "# @package _global_\noptimizer.lr: 1\n",
            "mine.yaml, line 2: optimizer.lr: in a file keys stand below their groups",
        ),
        ("# @package _global_\ndefaults:\n  - mine\n", "experiment=mine: leads back to itself"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told_with_its_line(content, told, configs_here):
    (configs_here / "experiment" / "mine.yaml").write_text(content)
    with pytest.raises(ConfigError, match=re.escape(told)):
        configs.load(["experiment=mine"])


def test_a_time_and_a_number_that_begins_with_0_are_text_in_a_recipe(configs_here):
    (configs_here / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nname: 007\ncluster: {time_limit: 24:00:00}\n"
    )
    config = configs.load(["experiment=mine"])
    assert (config.name, config.cluster.time_limit) == ("007", "24:00:00")


def test_numbers_in_a_recipe_are_read_as_those_that_are_typed_and_an_empty_one_changes_nothing(configs_here):
    (configs_here / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ntraining: {steps: 1e2, batch_size: 1.0e1}\ndata: {shard_bytes: 64MiB}\noptimizer: {lr: "
        "1e-4}\n"
    )
    config = configs.load(["experiment=mine"])
    assert (config.training.steps, config.training.batch_size, config.data.shard_bytes, config.optimizer.lr) == (
        100,
        10,
        2**26,
        1e-4,
    )
    (configs_here / "experiment" / "mine.yaml").write_text("# nothing yet\n")
    assert configs.load(["experiment=mine"]) == DEFAULT
    (configs_here / "experiment" / "2026_11.yaml").write_text("# @package _global_\nseed: 5\n")
    assert configs.load(["experiment=2026_11"]).seed == 5


@pytest.mark.parametrize(
    "text, told",
    [
        ("~: 2", "Incompatible key type 'NoneType'"),
        ("seed: ${", r"configs/experiment/zz-odd.yaml, line 2: seed: no viable.*type \\\$\{ for"),
        ("data:\n  files: [1]", r"line 3: data.files\[0\]=1: expected text: in quotes, as '1'$"),
    ],
)
def test_what_hydra_only_names_the_kind_of_is_told(text, told):
    file = ROOT / "configs" / "experiment" / "zz-odd.yaml"
    file.write_text(f"# @package _global_\n{text}\n")
    try:
        with pytest.raises(ConfigError, match=told):
            configs.load(["experiment=zz-odd"])
    finally:
        file.unlink()
