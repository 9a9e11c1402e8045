"""A folder of tasks of lm-eval's four output types, over Python's own words."""

import json
from pathlib import Path

OUTPUT_TYPES = {
    "choice": ("multiple_choice", ["acc", "acc_norm"]),
    "ending": ("loglikelihood", ["acc", "perplexity"]),
    "text": ("loglikelihood_rolling", ["bits_per_byte", "byte_perplexity"]),
    "going_on": ("generate_until", ["exact_match"]),
}
LINES = (
    "def __init__(self, name, value=None):",
    "for line in lines:",
    "return self._value is not None",
    "import os, sys",
    "raise ValueError('unknown format: %r' % (format,))",
    "class Error(Exception):",
    "if not isinstance(other, tuple):",
    "with open(path, 'rb') as file:",
)


def documents(number: int = 12) -> list[dict]:
    """Each a context of another length, four endings of which one is right, and how it goes on."""
    found = []
    for place in range(number):
        lines = [LINES[(place + step) % len(LINES)] for step in range(1 + place % 4)]
        text = "\n    ".join(lines)
        cut = text.rfind(" ")
        choices = [" value", ":", " in range(len(lines)):"][: 1 + place % 3]
        gold = place % (len(choices) + 1)
        choices.insert(gold, text[cut:])
        found.append({"question": text[:cut], "choices": choices, "gold": gold, "answer": text[cut:], "text": text})
    return found


def four_tasks(folder: Path, docs: list[dict] | None = None, max_gen_toks: int = 8, **more: object) -> Path:
    """Writes them; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(doc) + "\n" for doc in (documents() if docs is None else docs))
    (folder / "docs.jsonl").write_text(lines)
    for task, (output_type, metrics) in OUTPUT_TYPES.items():
        settings = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}},
            "test_split": "test",
            "output_type": output_type,
            "doc_to_text": "" if task == "text" else "{{question}}",
            "doc_to_target": {"choice": "gold", "text": "{{text}}"}.get(task, "{{answer}}"),
            "metric_list": [{"metric": metric} for metric in metrics],
            "target_delimiter": "",
            "metadata": {"version": 3.0},
            **({"doc_to_choice": "choices"} if task == "choice" else {}),
            **(
                {"generation_kwargs": {"until": ["\n", ":"], "max_gen_toks": max_gen_toks}, "num_fewshot": 0}
                if task == "going_on"
                else {}
            ),
            **more,
        }
        (folder / f"{task}.yaml").write_text(json.dumps(settings))  # which is YAML
    return folder
