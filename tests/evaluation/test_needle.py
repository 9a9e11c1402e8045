"""Needles in held-out text: where they stand, how long the prompts are, and how their scores are told by depth."""

import json
from pathlib import Path

import pytest

from mfa_train.config import EvaluationConfig
from mfa_train.data.corpus import Corpus
from mfa_train.data.shards.cache import ShardCache
from mfa_train.errors import ConfigError
from mfa_train.evaluation.needle import NEEDLE, QUESTION, Needles, numbers, write_needles
from mfa_train.evaluation.scores import Metric, TaskScores
from mfa_train.evaluation.tasks import load_tasks
from mfa_train.training.evaluate_run import table
from mfa_train.training.steps.task_scores import metrics_of
from tests.test_first_round import FILES

LENGTHS, DEPTHS = [160, 320], [0, 50, 100]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return Corpus(FILES / "corpus", ShardCache(str(tmp_path_factory.mktemp("cache")), 2**20, print))


@pytest.fixture
def made(corpus, tmp_path) -> Path:
    write_needles(corpus, Needles(LENGTHS, DEPTHS, 4, 1), tmp_path / "tasks")
    return tmp_path / "tasks"


def documents(folder: Path, length: int) -> list[dict]:
    return [json.loads(line) for line in (folder / f"needle_{length}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("length", LENGTHS)
def test_each_needle_stands_once_at_its_depth_of_a_prompt_of_the_length(corpus, made, length):
    texts = {}
    for document in documents(made, length):
        key, prompt = document["choices"][document["gold"]], document["context"]
        needle = NEEDLE.format(key=key)
        assert prompt.split("\n").count(needle) == 1 and prompt.endswith(f"\n{QUESTION}")
        assert len(document["choices"]) == len(set(document["choices"])) == 10
        tokens = [1 + len(ids) for ids in corpus.tokenizer.encode([f"{prompt} {one}" for one in document["choices"]])]
        assert tokens[document["gold"]] <= length and min(tokens) > length * 0.9
        text = prompt.removesuffix(f"\n{QUESTION}")
        share = text.index(needle) / max(1, len(text) - len(needle))
        assert abs(100 * share - document["depth"]) <= (0 if document["depth"] in (0, 100) else 25)
        texts.setdefault(key, []).append(text.replace(needle, "").replace("\n", "")[: length // 2])
    assert len(texts) == 4 and all(len(set(same)) == 1 and len(same) == 3 for same in texts.values())


def test_the_seed_alone_decides_what_is_asked(corpus, made, tmp_path):
    write_needles(corpus, Needles(LENGTHS, DEPTHS, 4, 1), tmp_path / "again")
    write_needles(corpus, Needles(LENGTHS, DEPTHS, 4, 2), tmp_path / "other")
    assert documents(made, 160) == documents(tmp_path / "again", 160) != documents(tmp_path / "other", 160)


def test_lm_eval_reads_all_lengths_by_one_name(made):
    tasks = load_tasks(EvaluationConfig(["needle"], str(made), None, None, None, 2**13, False))
    assert {name: len(task.eval_docs) for name, task in tasks.items()} == {"needle_160": 12, "needle_320": 12}
    (made / "needle_160.yaml").write_text((made / "needle_160.yaml").read_text().replace("by: depth", "by: deep"))
    with pytest.raises(ConfigError, match=r"document 1 has no field deep, which metadata\.by names"):
        load_tasks(EvaluationConfig(["needle"], str(made), None, None, None, 2**13, False))


def test_scores_are_told_by_depth():
    found = TaskScores(
        *("needle_160", "1", 0, "final", 8, 800, None, 4, "sha", 0),
        metrics={"acc": Metric(0.5, 0.2, True)},
        by_document={"acc": [1.0, 0.0, 1.0, 0.0]},
        versions={},
        seconds=1.0,
        by={"depth": [0, 50, 0, 100]},
    )
    assert metrics_of(found) == {
        "eval/needle_160/acc": 0.5,
        "eval/needle_160/acc/depth=0": 1.0,
        "eval/needle_160/acc/depth=50": 0.0,
        "eval/needle_160/acc/depth=100": 0.0,
    }
    assert table([found]).splitlines()[-2:] == [
        "acc         depth=0  depth=50  depth=100",
        "needle_160   1.0000    0.0000     0.0000",
    ]


def test_what_cannot_be_asked_is_refused_in_a_line(corpus, made, tmp_path):
    with pytest.raises(ConfigError, match=r"--lengths 20: needle, question and answer alone are \d+ tokens"):
        write_needles(corpus, Needles([20], [50], 1, 1), tmp_path / "short")
    with pytest.raises(ConfigError, match=r"--lengths 1000000: the held-out text of .* has [\d,]+ tokens"):
        write_needles(corpus, Needles([10**6], [50], 1, 1), tmp_path / "long")
    with pytest.raises(ConfigError, match="exists: remove it, or type --out FOLDER"):
        write_needles(corpus, Needles([160], [50], 1, 1), made)
    with pytest.raises(ConfigError, match="--depths=101: expected a whole number of at least 0 and at most 100"):
        Needles([160], [101], 1, 1)
    with pytest.raises(ConfigError, match="--lengths 256,: expected whole numbers with commas"):
        numbers("--lengths", "256,")
    assert not (tmp_path / "short").exists() and not list(tmp_path.glob(".*"))
    with pytest.raises(ConfigError, match=r"no such task in .*make it first: type mfa-train needle"):
        load_tasks(EvaluationConfig(["needle"], str(tmp_path / "none"), None, None, None, 2**13, False))
