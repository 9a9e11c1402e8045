"""Documents from files, and their preparation: resumed after a kill, and clear about what is no text."""

import bz2
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mfa_train import config as configs
from mfa_train.data.corpus import Corpus
from mfa_train.data.sources.files import Files
from mfa_train.data.prepare import prepare
from mfa_train.errors import ConfigError, DataError
from tests.conftest import ROOT

TEXTS = ["one line", "two\nlines of text", "Ünïcode 漢字 🙂", "  spaces \t and tabs\n\n", "last"]


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def write(folder: Path, name: str, texts: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / name)
    else:
        compress = {"gz": gzip.compress, "bz2": bz2.compress}.get(name.split(".")[-1], bytes)
        (folder / name).write_bytes(compress(lines(texts)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.bz2", "a.parquet"])
def test_every_form_gives_the_same_documents(name, tmp_path):
    write(tmp_path, name, [*TEXTS, ""])
    assert [document.text for document in Files([str(tmp_path / "*")], "text").documents()] == TEXTS


def test_plain_files_are_a_document_each_in_the_order_of_their_names(tmp_path):
    for name in ("b/2.txt", "a.md", "b/1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"I am {name}")
    found = list(Files([f"{tmp_path}/**/*.txt", f"{tmp_path}/*.md"], "text").documents())
    assert [document.text for document in found] == ["I am a.md", "I am b/1.txt", "I am b/2.txt"]


@pytest.mark.parametrize("name, content, told", [
    ("a.jsonl", lines(["fine"]) + b"{broken\n", "a.jsonl:2: not a JSON object"),
    ("a.jsonl", lines(["fine"]) + b'{"text": "\xff"}\n', "a.jsonl:2: not a JSON object in UTF-8"),
    ("a.jsonl", lines(["fine"]) + b'{"body": "x"}\n', "a.jsonl:2: no text under 'text' (keys ['body']); type data.text_key"),
    ("a.jsonl", b'{"text": "a\\u0000b"}\n', "a.jsonl:1: holds a NUL byte"),
    ("a.jsonl", b'{"text": "' + b"x" * 2**26 + b'"}\n', "a.jsonl:1: a line of more than 67,108,864 bytes"),
    ("a.jsonl.gz", gzip.compress(lines(TEXTS * 1000))[:-30], "a.jsonl.gz: damaged, or cut off"),
    ("a.parquet", b"PAR1 no", "a.parquet: not a whole Parquet file"),
    ("a.txt", b"caf\xe9", "a.txt: not UTF-8 (byte 3)"),
])
def test_what_is_no_text_is_told_with_its_place(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        list(Files([str(tmp_path / name)], "text").documents())
    assert told in str(error.value) and "\n" not in str(error.value)


def test_no_file_is_a_mistake(tmp_path):
    for patterns in ([], [f"{tmp_path}/*.jsonl"]):
        with pytest.raises(ConfigError, match="data.files="):
            Files(patterns, "text")


@pytest.fixture(scope="module")
def text_files(tmp_path_factory) -> Path:
    """Three files of some hundred documents."""
    folder, words = tmp_path_factory.mktemp("text"), random.Random(0)
    vocabulary = ["".join(words.choices("abcdefgh", k=words.randint(2, 7))) for _ in range(2000)]
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        write(folder, name, [" ".join(words.choices(vocabulary, k=words.randint(20, 300))) for _ in range(150)])
    return folder


def settings(text_files: Path, data_dir: Path) -> list[str]:
    return ["data=files", f"data_dir={data_dir}", f"data.files=['{text_files}/*']", "data.vocab_size=600",
            "data.shard_bytes=40000", "data.tokenizer_bytes=100000"]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_shards_hold_every_document_once(text_files, tmp_path):
    data = configs.load(settings(text_files, tmp_path)).data
    corpus = prepare(data, lambda message: None)
    source = Files(data.files, "text")
    for split, shards in (("train", corpus.train), ("held_out", corpus.held_out)):
        texts = [document.text for document in source.documents()
                 if source.held_out(document, 0.05) == (split == "held_out")]
        assert corpus.tokenizer.text_bytes(shards.read(0, shards.num_tokens)).decode() == "".join(texts)
        assert corpus.manifest["splits"][split]["documents"] == len(texts)
    assert len(corpus.train.shards) > 5
    Corpus(data.path, check=True)


def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(text_files, tmp_path):
    whole = prepare(configs.load(settings(text_files, tmp_path / "whole")).data, lambda message: None)
    killed = configs.load(settings(text_files, tmp_path / "killed")).data
    command = [sys.executable, "-m", "mfa_train.cli", "prepare", *settings(text_files, tmp_path / "killed")]
    partial, kills = Path(killed.path).with_name(f".{Path(killed.path).name}.partial"), 0
    while not Path(killed.path).exists():
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
        before = len(list(partial.glob("train-*.idx"))) if partial.exists() else 0
        while process.poll() is None and kills < 3:
            if partial.exists() and len(list(partial.glob("train-*.idx"))) > before:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        process.communicate(timeout=60)
    assert kills >= 2
    assert digests(Path(killed.path)) == digests(Path(whole.path))
