"""What is made of lm-eval's answers: numbers that can be known beforehand."""

import math

import pytest
from lm_eval import evaluator
from lm_eval.api.model import LM

from mfa_train.config import EvaluationConfig
from mfa_train.evaluation.scores import TaskScores, read, scores_of, write
from mfa_train.evaluation.tasks import load_tasks
from tests.evaluation.four_tasks import documents, four_tasks


class Scripted(LM):
    """`nats(context, continuation)` is the log-likelihood; greedy where it is above -1."""

    def __init__(self, nats):
        super().__init__()
        self.nats = nats

    def loglikelihood(self, requests):
        found = [self.nats(*request.args) for request in requests]
        return [(nats, nats > -1) for nats in found]

    def loglikelihood_rolling(self, requests):
        return [self.nats("", *request.args) for request in requests]

    def generate_until(self, requests):
        return [" value"] * len(requests)


def scored(nats, tasks_dir, name, bootstrap_iters=0, num_fewshot=None, limit=None) -> tuple[TaskScores, dict]:
    """And what lm-eval itself makes of it."""
    config = EvaluationConfig([name], str(tasks_dir), num_fewshot, limit, None, 2**13, False)
    (task,) = load_tasks(config).values()
    task.set_fewshot_seed(1234)
    outcome = evaluator.evaluate(
        lm=Scripted(nats),
        task_dict={"tasks": {name: task}, "groups": {}},
        limit=limit,
        bootstrap_iters=bootstrap_iters,
    )
    state = {"checkpoint": "final", "step": 8, "tokens": 2**11, "limit": limit, "truncated": 0, "seconds": 1.0}
    return scores_of(task, outcome, **state, commit=None), outcome["results"][name]


def a_byte_of_eight_bits(context: str, continuation: str) -> float:
    return -len(continuation.encode()) * 8 * math.log(2)


@pytest.mark.parametrize("name", ["choice", "ending", "text"])
def test_a_model_that_knows_nothing_of_bytes_needs_eight_bits_of_each(name, tmp_path):
    scores, _ = scored(a_byte_of_eight_bits, four_tasks(tmp_path), name)
    assert scores.metrics["bits_per_byte"].value == 8
    assert not scores.metrics["bits_per_byte"].higher_is_better
    if name != "text":  # lm-eval's own is no mean over documents: bits of all texts, by bytes of all texts
        assert set(scores.by_document["bits_per_byte"]) == {8.0}
        assert scores.metrics["bits_per_byte"].stderr == 0


def test_bits_are_those_of_the_right_answer_by_its_bytes_and_the_space_before(tmp_path):
    docs = [{"question": "Q", "choices": ["ab", "für"], "gold": gold, "answer": "", "text": "t"} for gold in (0, 1, 1)]
    tasks_dir = four_tasks(tmp_path, docs, target_delimiter=" ")
    scores, _ = scored(lambda _, answer: {" ab": -3.0, " für": -5.0}[answer], tasks_dir, "choice")
    first, second = 3 / (3 * math.log(2)), 5 / (5 * math.log(2))  # ü is two bytes
    assert scores.by_document["bits_per_byte"] == pytest.approx([first, second, second], rel=1e-5)
    assert scores.by_document["acc"] == [1, 0, 0]


def test_space_at_the_prompts_end_counts_as_a_byte_since_it_is_scored_with_the_answer(tmp_path):
    docs = [{"question": "Q:\n ", "choices": ["ab", "c"], "gold": 0, "answer": "", "text": "t"}]
    scores, _ = scored(lambda _, answer: -4 * math.log(2), four_tasks(tmp_path, docs), "choice")
    assert scores.metrics["bits_per_byte"].value == 1


def test_the_right_one_of_several_contexts_is_scored(tmp_path):
    """lm-eval's form of winogrande: the text is the place of the right context, the choices are contexts."""
    keys = {"doc_to_text": "gold", "doc_to_target": "{{answer}}"}
    docs = [{"question": "Q", "choices": ["Ann", "Bo"], "gold": 1, "answer": " late", "text": "t"}]
    tasks_dir = four_tasks(tmp_path, docs, **keys)
    scores, _ = scored(lambda context, _: {"Ann": -3.0, "Bo": -2.0}[context], tasks_dir, "choice")
    assert scores.metrics["bits_per_byte"].value == pytest.approx(2 / (5 * math.log(2)), rel=1e-5)
    assert scores.by_document["acc"] == [1]


@pytest.mark.parametrize("name", ["choice", "ending", "text", "going_on"])
def test_metrics_are_lm_evals_and_means_of_what_stands_by_document(name, tmp_path):
    """Its standard errors too, where they need no bootstrap."""

    def nats(context: str, continuation: str) -> float:
        return -float(len(context) * 7 % 11 + len(continuation) * 5 % 13) / 4

    scores, theirs = scored(nats, four_tasks(tmp_path), name, bootstrap_iters=2)
    known = {key.removesuffix(",none"): value for key, value in theirs.items() if key.endswith(",none")}
    assert {metric for metric in known if "_stderr" not in metric} <= set(scores.metrics)
    for metric, values in scores.by_document.items():
        assert sum(values) / len(values) == pytest.approx(scores.metrics[metric].value, rel=1e-5)
        assert len(values) == scores.documents == len(documents())
    for metric, found in scores.metrics.items():
        if metric in known:
            assert found.value == pytest.approx(known[metric], rel=1e-5)
            if metric in scores.by_document:
                assert found.stderr == pytest.approx(known[f"{metric}_stderr"], rel=1e-5)
    assert ("acc" in scores.by_document) == (name in ("choice", "ending"))
    assert ("exact_match" in scores.by_document) == (name == "going_on")


def test_what_may_be_paired_has_the_same_documents_and_prompts(tmp_path):
    tasks_dir = four_tasks(tmp_path, fewshot_split="test")

    def documents_sha256(nats=a_byte_of_eight_bits, **keys) -> str:
        return scored(nats, tasks_dir, "choice", **keys)[0].documents_sha256

    same = documents_sha256()
    assert documents_sha256(lambda *_: -1.0) == same
    assert same not in (documents_sha256(limit=5), documents_sha256(num_fewshot=2))


def test_shots_in_ready_prompts_are_told(tmp_path):
    tasks_dir = four_tasks(tmp_path, num_fewshot=0, metadata={"version": 1, "num_fewshot": 5})
    scores, _ = scored(a_byte_of_eight_bits, tasks_dir, "choice")
    assert (scores.num_fewshot, scores.task_version) == (5, "1")
    assert scores.file_name == "choice-5shot-step-00000008.json"


def test_scores_are_read_as_they_were_written_and_damaged_ones_passed_over(tmp_path):
    scores, _ = scored(a_byte_of_eight_bits, four_tasks(tmp_path / "tasks"), "choice")
    path = write(tmp_path, scores)
    (path.parent / "other.json").write_text(path.read_text()[:-9])
    told: list[str] = []
    assert read(tmp_path, told.append) == [scores]
    assert "other.json: no scores of this version" in told[0]
    assert len(told) == 1
