"""Data sets through `datasets`: a folder in the layout of FineWeb-Edu's repository, saved ones, loaders, and a Hub
(here a server on loopback) that says no."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from mfa_train.data.preparing.sources.hub import Hub
from mfa_train.errors import ConfigError, DataError
from tests.conftest import ROOT
from tests.data.corpora import prepared, random_texts

README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
---
"""
TEXTS = random_texts(120)


@pytest.fixture(scope="module")
def fineweb_edu(tmp_path_factory) -> Path:
    """Its folders and columns, 120 documents in two files."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "README.md").write_text(README)
    for number, path in enumerate(
        (
            "sample/10BT/000_00000.parquet",
            "sample/10BT/001_00000.parquet",
            "data/CC-MAIN-2024-10/train-00000-of-00001.parquet",
        )
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        texts = TEXTS[:60] if number % 2 == 0 else TEXTS[60:]
        pyarrow.parquet.write_table(
            pyarrow.table(
                {
                    "text": texts,
                    "id": [f"<urn:uuid:{row}>" for row in range(60)],
                    "dump": ["CC-MAIN-2024-10"] * 60,
                    "url": ["https://example.org"] * 60,
                    "file_path": ["s3://commoncrawl/x"] * 60,
                    "language": ["en"] * 60,
                    "language_score": [0.9] * 60,
                    "token_count": [100] * 60,
                    "score": [3.1] * 60,
                    "int_score": [3] * 60,
                }
            ),
            folder / path,
        )
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def texts(*arguments) -> list[str]:
    return [document.text for document in Hub(*arguments).documents()]


def test_the_fineweb_edu_recipe_streams_its_layout(fineweb_edu, tmp_path):
    corpus = prepared(
        "data=fineweb_edu",
        f"data.dataset={fineweb_edu}",
        f"data_dir={tmp_path}",
        "data.vocab_size=600",
        "data.held_out_fraction=0.1",
    )
    splits = corpus.manifest["splits"]
    assert splits["train"]["documents"] + splits["held_out"]["documents"] == 120
    held_out = corpus.tokenizer.decode(corpus.held_out.read(0, corpus.held_out.num_tokens))
    assert held_out == "".join(text for text in TEXTS if text in held_out)
    assert Path(corpus.path).name == "fineweb-edu-sample-10BT-600"


def test_saved_data_sets_and_loaders_give_the_same_documents(fineweb_edu, tmp_path):
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "splits")
    for name in ("one", "splits"):
        assert texts(str(tmp_path / name), None, "train", [], "text") == TEXTS
    assert texts("parquet", None, "train", [f"{fineweb_edu}/sample/10BT/*.parquet"], "text") == TEXTS
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    assert texts("json", None, "train", [f"{tmp_path}/a.jsonl"], "body") == TEXTS


def test_versions_tell_data_sets_apart(fineweb_edu):
    versions = {
        Hub(str(fineweb_edu), config, "train", [], key).version()
        for config in ("default", "sample-10BT")
        for key in ("text", "url")
    }
    assert len(versions) == 4


@pytest.mark.parametrize(
    "arguments, told",
    [
        ((None, None, "train", []), "data.dataset=null: expected a data set"),
        (("FOLDER", "sample-1BT", "train", []), "'sample-1BT' not found. Available: ['default', 'sample-10BT']"),
        (("FOLDER", "default", "test", []), "data.dataset_split=test: FOLDER has train"),
        (("parquet", None, "train", []), "a loader (arrow, csv, json, parquet, text) reads data.files"),
        (("parquet", None, "train", ["/nowhere/*.parquet"]), "data.dataset=parquet: cannot be read"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(arguments, told, fineweb_edu):
    name, *others = (str(fineweb_edu) if value == "FOLDER" else value for value in arguments)
    with pytest.raises(ConfigError) as error:
        Hub(name, *others, "text")
    assert told.replace("FOLDER", str(fineweb_edu)) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_column_is_named(fineweb_edu):
    with pytest.raises(DataError, match=r"no column 'body' among \['text', 'id',.*; type data.text_key="):
        texts(str(fineweb_edu), "sample-10BT", "train", [], "body")


class _Refusing(BaseHTTPRequestHandler):
    """The Hub's answers for a data set that isn't there, and for a gated one."""

    def do_GET(self):
        gated = "gated" in self.path
        info = gated and "/api/datasets/" in self.path and "/revision/" not in self.path
        self.send_response(200 if info else 403 if gated else 401)
        told = {"id": "some/gated", "sha": "0" * 40, "gated": "manual", "siblings": []}
        content = json.dumps(told if info else {}).encode()
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_POST = do_GET

    def log_message(self, *arguments):
        pass


def test_a_hub_that_says_no_is_told_in_one_line(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = """
from mfa_train.data.preparing.sources.hub import Hub
for name in NAMES:
    try: Hub(name, None, 'train', [], 'text')
    except Exception as error: print(name, repr(error))
"""
    here, closed = f"http://127.0.0.1:{server.server_port}", "http://127.0.0.1:9"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script.replace("NAMES", repr(names))],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**environment, "HF_ENDPOINT": endpoint},
        )
        for names, endpoint in ((("some/gated", "no/such"), here), (("any/thing",), closed))
    ]
    told = dict(line.split(" ", 1) for process in running for line in process.communicate(timeout=60)[0].splitlines())
    server.shutdown()
    assert "gated: ask for access on its page, then log in with hf auth login" in told["some/gated"]
    assert "no such data set on the Hub" in told["no/such"]
    assert "the Hub cannot be reached" in told["any/thing"]
    assert len(told) == 3 and all("data.dataset=" in line and "\\n" not in line for line in told.values()), told
