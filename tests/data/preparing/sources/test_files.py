"""Documents from files, and their preparation: resumed after a kill, and clear about what is no text."""

import gzip
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from mfa_train import config as configs
from mfa_train.data.preparing.prepare import prepare
from mfa_train.data.preparing.sources.files import Files
from mfa_train.errors import ConfigError, DataError
from tests.conftest import ROOT
from tests.data.corpora import digests, lines, opened, prepared, random_texts, write

TEXTS = ["one line", "two\nlines of text", "Ünïcode 漢字 🙂", "  spaces \t and tabs\n\n", "last"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst", "a.parquet"])
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
    ("a.jsonl.zst", zstandard.compress(lines(TEXTS * 1000))[:-30], "a.jsonl.zst: damaged, or cut off"),
    ("a.jsonl.zst", b"(\xb5/\xfdrubbish", "a.jsonl.zst: damaged, or cut off"),
    ("a.jsonl", b'{"text": "a\\ud800"}\n', "a.jsonl:1: character 1 is half of a surrogate pair"),
    ("a.parquet", b"PAR1 no", "a.parquet: not a whole Parquet file"),
    ("a.txt", b"caf\xe9", "a.txt: not UTF-8 (byte 3)"),
])
def test_what_is_no_text_is_told_with_its_place(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        list(Files([str(tmp_path / name)], "text").documents())
    assert told in str(error.value) and "\n" not in str(error.value)


def test_every_frame_of_a_zst_is_read(tmp_path):
    frames = [zstandard.compress(lines([text])) for text in ("one", "two", "three")]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert [document.text for document in Files([f"{tmp_path}/*"], "text").documents()] == ["one", "two", "three"]


def test_no_file_is_a_mistake(tmp_path):
    for patterns in ([], [f"{tmp_path}/*.jsonl"], [f"{tmp_path}/none.jsonl"], ["nosuch://x/*"]):
        with pytest.raises(ConfigError, match="data.files="):
            Files(patterns, "text")


@pytest.fixture(scope="module")
def text_files(tmp_path_factory) -> Path:
    """Three files of some hundred documents."""
    folder = tmp_path_factory.mktemp("text")
    for number, name in enumerate(("a.jsonl", "b.jsonl.gz", "c.parquet")):
        write(folder, name, random_texts(150, number))
    return folder


def settings(text_files: Path, data_dir: Path) -> list[str]:
    return ["data=files", f"data_dir={data_dir}", f"data.files=['{text_files}/*']", "data.vocab_size=600",
            "data.shard_bytes=40000", "data.tokenizer_bytes=100000"]


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
    opened(data.path, check=True)


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


def test_a_full_disk_keeps_the_finished_shards(tmp_path):
    """Here a limit on a file's size, which the last document alone exceeds."""
    write(tmp_path / "text", "a.jsonl", random_texts(150))
    write(tmp_path / "text", "z.jsonl", [" ".join(random_texts(300, 9))])
    overrides = settings(tmp_path / "text", tmp_path / "data")
    path = Path(configs.load(overrides).data.path)
    done = subprocess.run(
        [sys.executable, "-m", "mfa_train.cli", "prepare", *overrides], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"error: data.path={path}: File too large while preparing; free space" in done.stderr
    kept = digests(path.with_name(f".{path.name}.partial"))
    prepared(*overrides)
    whole = prepared(*overrides, f"data.path={tmp_path / 'whole'}")
    assert digests(path) == digests(whole.path)
    finished = {name for name in kept if name.endswith(".idx")}
    assert len(finished) >= 3 and all(kept[name] == digests(path)[name] for name in finished)


def test_an_empty_corpus_is_a_mistake(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(["", ""]))
    with pytest.raises(ConfigError, match="there is no text to prepare .files: 1 .*; documents: 0 .*; left out: empty documents: 2"):
        prepared(*settings(tmp_path, tmp_path / "data"))


def test_another_tokenizer_than_the_corpus_has_is_refused(text_files, tmp_path):
    corpus = prepared(*settings(text_files, tmp_path))
    before = digests(corpus.path)
    for number, overrides in enumerate(([f"data.tokenizer={corpus.path}/tokenizer.model"], ["data.shard_bytes=30000"])):
        with pytest.raises(ConfigError, match=["data.tokenizer=.*another tokenizer", "data.shard_bytes=30000"][number]):
            prepared(*settings(text_files, tmp_path), *overrides, f"data.path={corpus.path}")
    again = prepared(*settings(text_files, tmp_path / "given"), f"data.tokenizer={corpus.path}/tokenizer.model")
    assert Path(again.path).name == f"files-{Path(corpus.path).name}"
    assert all(digests(again.path)[name] == before[name] for name in before if name != "manifest.json")


@pytest.mark.parametrize("override", [
    "data.files=['https://me:hunter2@host/a.jsonl']", "data.files=['https://host/a.jsonl?X-Amz-Signature=hunter2']",
    "data.path=s3://AK:hun/ter2@bucket/x", "data.corpora={a: 's3://AK:hunter2@bucket/x'}", "data.tokenizer='https://host/t.json?sig=hunter2'",
])
def test_a_secret_in_a_url_is_refused_and_not_repeated(override):
    with pytest.raises(ConfigError, match="credentials in the environment") as error:
        configs.load(["data=files", override])
    assert "hun" not in str(error.value) and "ter2" not in str(error.value)


def test_a_bad_line_stops_the_preparation_and_keeps_what_was_finished(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(random_texts(150)) + b"{broken\n")
    overrides = settings(tmp_path, tmp_path / "data")
    with pytest.raises(DataError, match="a.jsonl:151: not a JSON object"):
        prepared(*overrides)
    path = Path(configs.load(overrides).data.path)
    assert not path.exists() and len(list(path.with_name(f".{path.name}.partial").glob("train-*.idx"))) >= 2
