"""The embedded corpus."""

import shutil
from pathlib import Path

import pytest

from mfa_train import config as configs
from mfa_train.data.preparing.prepare import prepare
from mfa_train.data.preparing.sources import python_stdlib
from mfa_train.errors import ConfigError
from tests.data.corpora import digests, opened


def corpus_in(data_dir: Path) -> Path:
    return next(path for path in data_dir.iterdir() if path.is_dir())


def prepare_in(data_dir: Path, *overrides: str) -> Path:
    data = configs.load([f"data_dir={data_dir}", *overrides]).data
    prepare(data, lambda message: None)
    return Path(data.path)


def test_the_same_python_gives_the_same_bytes(prepared_data, tmp_path):
    again = prepare_in(tmp_path)
    assert digests(again) == digests(prepared_data / again.name)


def test_prepared_tokens_are_reused(prepared_data):
    corpus = corpus_in(prepared_data)
    before = {path.name: path.stat().st_mtime_ns for path in corpus.iterdir()}
    prepare_in(prepared_data)
    assert {path.name: path.stat().st_mtime_ns for path in corpus.iterdir()} == before


def test_whole_files_are_held_out_and_none_is_a_test(prepared_data):
    documents = list(python_stdlib.documents())
    names = [document.place for document in documents]
    held_out = [document for document in documents if python_stdlib.held_out(document, 0.05)]
    splits = opened(corpus_in(prepared_data)).manifest["splits"]
    assert splits["held_out"]["documents"] == len(held_out)
    assert splits["train"]["documents"] == len(names) - len(held_out)
    assert "json/decoder.py" in names
    assert not any("test" in name.split("/")[:-1] for name in names)


def test_the_held_out_text_comes_back_from_its_tokens(prepared_data):
    corpus = opened(corpus_in(prepared_data))
    texts = "".join(document.text for document in python_stdlib.documents() if python_stdlib.held_out(document, 0.05))
    assert corpus.tokenizer.text_bytes(corpus.held_out.read(0, corpus.held_out.num_tokens)).decode() == texts


def test_other_settings_never_overwrite_a_corpus(prepared_data, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus_in(prepared_data), copy)
    before = digests(copy)
    with pytest.raises(ConfigError, match="data.vocab_size=2048"):
        prepare_in(tmp_path, "data.vocab_size=2048", f"data.path={copy}")
    assert digests(copy) == before
