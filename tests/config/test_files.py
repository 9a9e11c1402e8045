"""What is written into a file is what was meant, or one line that says what is wrong, with the file and its line."""

import re

import pytest

from mfa_train import config as configs
from mfa_train.config import composition
from mfa_train.errors import ConfigError
from tests.conftest import ROOT

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
    assert configs.load(["experiment=mine"]) == configs.load([])
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


def test_what_is_remembered_of_files_is_what_they_say_now(configs_here):
    """Members of a sweep are composed of the same files again and again: one that changed, came or went is read anew,
    and what is set of one member stays with it."""
    habits, words = configs_here / "local" / "default.yaml", ("experiment=mine", "optimizer.lr=2e-3")
    (configs_here / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    assert [configs.load(words).seed for _ in range(2)] == [7, 7]
    (configs_here / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 11\n")
    assert configs.load(words).seed == 11
    habits.parent.mkdir()
    habits.write_text("# @package _global_\nruns_dir: elsewhere\n")
    assert configs.load(words).runs_dir == "elsewhere"
    habits.unlink()
    again = configs.load(words[:1])
    assert (again.runs_dir, again.optimizer.lr) == ("runs", configs.load([]).optimizer.lr)
    for wrong in ("seed=1,2", "optimizer.rl=1", "experiment=yours", "~seed", "attention@model=mla"):
        with pytest.raises(ConfigError) as told:
            configs.load([*words, wrong])
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ConfigError) as by_hydra:
            patch.setattr(composition, "_is_plain", lambda override: False)
            configs.load([*words, wrong])
        assert str(told.value) == str(by_hydra.value)
