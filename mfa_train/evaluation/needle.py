"""A sentence to be found in a long text, as tasks of a folder: `mfa-train needle`, then `mfa-train evaluate RUN
tasks=needle`.

1. Of a corpus's held-out text as many tokens are taken, from a random place, as make the prompt so long; separators are
   left out.
2. "The pass key is 48213. Remember it. 48213 is the pass key." stands in it as a line of its own (arXiv 2305.16300's
   sentence): behind so many percent of the text's tokens, at the end of a line.
3. The prompt ends with "What is the pass key? The pass key is": scored are the log-likelihood of the right key, and
   whether it is likelier than nine others.

Nothing is drawn but by the seed. Texts and keys are the same at every depth, so depths differ in the place alone; a
length has its own. A model that has learnt no copying chooses by chance, 0.1, whatever it can read.
"""

import json
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mfa_train.config.requirements import MOST_SEED, SEQUENCE, require_positive, require_whole
from mfa_train.data.corpus import Corpus
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import ConfigError
from mfa_train.words import brief

NAME = "needle"
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"
DIGITS, CHOICES = 5, 10
MOST_DOCUMENTS = 10_000


@dataclass(frozen=True)
class Needles:
    """What is asked: `documents` at each of `lengths` × `depths`."""

    lengths: Sequence[int]
    """Of the prompt with its answer, in tokens, the separator before it counted."""
    depths: Sequence[int]
    """Percent of the text that stands before the needle."""
    documents: int
    seed: int

    def __post_init__(self):
        for length in self.lengths:
            require_positive("--lengths", length, SEQUENCE)
        for depth in self.depths:
            require_whole("--depths", depth, 0, 100)
        for key, values in (("--lengths", self.lengths), ("--depths", self.depths)):
            if len(set(values)) < len(values):
                raise ConfigError(f"{key} {','.join(map(str, values))}: type each once")
        require_positive("--documents", self.documents, MOST_DOCUMENTS)
        require_whole("--seed", self.seed, 0, MOST_SEED)


def numbers(key: str, typed: str) -> list[int]:
    """Of a list with commas. Raises ConfigError."""
    if not re.fullmatch("[0-9]{1,9}(,[0-9]{1,9})*", typed):
        raise ConfigError(f"{key} {brief(typed)}: expected whole numbers with commas between them, as {key} 25,50")
    return [int(number) for number in typed.split(",")]


def write_needles(corpus: Corpus, asked: Needles, folder: Path) -> list[str]:
    """Writes `folder` whole, a yaml and a jsonl file a length; returns the tasks' names. Raises ConfigError where the
    folder exists, a length is longer than the held-out text, or has no room for needle and question."""
    if folder.exists():
        raise ConfigError(f"{folder} exists: remove it, or type --out FOLDER with another")
    for length in asked.lengths:
        if length > corpus.held_out.num_tokens:
            raise ConfigError(
                f"--lengths {length}: the held-out text of {corpus.path} has {corpus.held_out.num_tokens:,} tokens; "
                "type shorter ones, or the data keys of a larger corpus"
            )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    names = []
    try:
        partial.mkdir(parents=True)
        for length in asked.lengths:
            _write(partial, f"{NAME}_{length}", _documents(corpus, asked, length), corpus, asked)
            names.append(f"{NAME}_{length}")
        partial.rename(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written ({error.strerror}); type --out FOLDER with one that can"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return names


def _documents(corpus: Corpus, asked: Needles, length: int) -> list[dict]:
    found = []
    for number in range(asked.documents):
        draw = random.Random(f"{asked.seed} {length} {number}")
        keys = [str(key) for key in draw.sample(range(10 ** (DIGITS - 1), 10**DIGITS), CHOICES)]
        gold = draw.randrange(CHOICES)
        begin = draw.randrange(corpus.held_out.num_tokens - length + 1)
        text = corpus.held_out.read(begin, begin + length)
        ids = text[text != corpus.tokenizer.eos_id].tolist()
        for depth in asked.depths:
            context = _prompt(corpus.tokenizer, ids, length, depth, keys[gold])
            found.append({"context": context, "choices": keys, "gold": gold, "depth": depth})
    return found


def _prompt(tokenizer: Tokenizer, ids: Sequence[int], length: int, depth: int, key: str) -> str:
    """With the key behind it `length` tokens at most, the separator before it among them, and few less."""
    taken = len(ids)
    while True:
        before = tokenizer.decode(ids[: taken * depth // 100])
        text = tokenizer.decode(ids[:taken])
        place = _end_of_line(text, len(before))
        lines = [text[:place].strip("\n"), NEEDLE.format(key=key), text[place:].strip("\n"), QUESTION]
        prompt = "\n".join(line for line in lines if line)
        much = 1 + len(tokenizer.encode([f"{prompt} {key}"])[0]) - length
        if much <= 0:
            return prompt
        if not taken:
            raise ConfigError(
                f"--lengths {length}: needle, question and answer alone are {length + much} tokens of this tokenizer; "
                "type longer ones"
            )
        taken = max(0, taken - much)


def _end_of_line(text: str, place: int) -> int:
    """The nearest, the text's own ends among them."""
    before, behind = text.rfind("\n", 0, place), text.find("\n", place)
    ends = [0 if before < 0 else before + 1, len(text) if behind < 0 else behind + 1]
    return min((abs(end - place), end) for end in ends)[1]


def _write(folder: Path, name: str, documents: list[dict], corpus: Corpus, asked: Needles) -> None:
    content = {
        "task": name,
        "tag": [NAME],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {
            "version": 1,
            "by": "depth",
            "seed": asked.seed,
            "tokenizer_sha256": corpus.tokenizer.sha256,
            "held_out_sha256": corpus.fingerprint("held_out"),
        },
    }
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
