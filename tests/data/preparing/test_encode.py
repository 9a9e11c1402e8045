"""A corpus made of files: every document once, resumed after a kill with the same bytes, and told at its end."""

import dataclasses
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mfa_train import config as configs
from mfa_train.data.corpora import open_all, prepare_all
from mfa_train.data.manifest import read_manifest
from mfa_train.data.preparing import encode, progress_file
from mfa_train.data.preparing.prepare import prepare
from mfa_train.data.preparing.sources.files import Files
from mfa_train.errors import ConfigError, DataError
from tests.conftest import ROOT
from tests.data.corpora import byte_level_tokenizer, digests, lines, opened, prepared, random_texts, write


@pytest.fixture(scope="module")
def text_files(tmp_path_factory) -> Path:
    """Three files of some hundred documents."""
    folder = tmp_path_factory.mktemp("text")
    for number, name in enumerate(("a.jsonl", "b.jsonl.gz", "c.parquet")):
        write(folder, name, random_texts(150, number))
    return folder


def settings(text_files: Path, data_dir: Path) -> list[str]:
    return [
        "data=files",
        f"data_dir={data_dir}",
        f"data.files=['{text_files}/*']",
        "data.vocab_size=600",
        "data.shard_bytes=40000",
        "data.tokenizer_bytes=100000",
    ]


def test_shards_hold_every_document_once(text_files, tmp_path):
    data = configs.load(settings(text_files, tmp_path)).data
    corpus = prepare(data, lambda message: None)
    source = Files(data.files, "text")
    for split, shards in (("train", corpus.train), ("held_out", corpus.held_out)):
        texts = [
            document.text for document in source.documents() if source.held_out(document, 0.05) == (split == "held_out")
        ]
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
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
        )
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


class Killed(BaseException):
    pass


@pytest.mark.parametrize("parted", [False, True])
def test_what_is_gone_on_with_is_told_and_written_as_if_never_stopped(parted, tmp_path, monkeypatch):
    texts = ["some words and more " * 300] * 12 if parted else random_texts(60)
    write(tmp_path / "text", "a.jsonl", [*texts, "", *texts])
    tokenizer = byte_level_tokenizer(tmp_path / "tokenizer.json", texts)
    overrides = [*settings(tmp_path / "text", tmp_path), f"data.tokenizer={tokenizer}", "data.shard_bytes=9000"]
    told: dict[str, list[str]] = {"whole": [], "killed": []}
    whole = prepared(*overrides, f"data.path={tmp_path}/whole", say=told["whole"].append)
    count = encode.sha256_of
    for kill_at in (3, 8, 9, 99):
        calls = iter(range(100))

        def dying(path, kill_at=kill_at, calls=calls):
            if next(calls) == kill_at:
                raise Killed
            return count(path)

        monkeypatch.setattr(encode, "sha256_of", dying)
        told["killed"].clear()
        try:
            prepared(*overrides, f"data.path={tmp_path}/killed", say=told["killed"].append)
        except Killed:
            continue
    assert digests(tmp_path / "killed") == digests(whole.path) and whole.manifest.get("ends_held_out", False) == parted
    assert told["killed"][0].endswith("finished shards …") and told["killed"][1:] == told["whole"][1:]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"5", b"[" * 10**5, "parts: 5", "parts: [5]", "documents: -1", "name: ../x"]
)
def test_a_damaged_progress_begins_anew(content, text_files, tmp_path):
    whole = prepared(*settings(text_files, tmp_path), f"data.path={tmp_path}/whole")
    data = configs.load([*settings(text_files, tmp_path), f"data.path={tmp_path}/again"]).data
    work = encode.Encoding(Path(data.path), Files(data.files, "text"), data, None, print)
    work.work.mkdir()
    if isinstance(content, str):
        entry = read_manifest(whole.path)["splits"]["train"]["shards"][0]
        parts = {
            "parts: 5": 5,
            "parts: [5]": [5],
            "documents: -1": [{"documents": -1, "splits": {"train": entry}}],
            "name: ../x": [{"documents": 1, "splits": {"train": entry | {"name": "../x"}}}],
        }[content]
        content = json.dumps({"settings": work.settings, "encoding": progress_file.ENCODING, "parts": parts}).encode()
    (work.work / "progress.json").write_bytes(content)
    assert digests(prepare(data, lambda line: None).path) == digests(whole.path)


def test_a_full_disk_keeps_the_finished_shards(tmp_path):
    """Here a limit on a file's size, which the last document alone exceeds."""
    write(tmp_path / "text", "a.jsonl", random_texts(150))
    write(tmp_path / "text", "z.jsonl", [" ".join(random_texts(300, 9))])
    overrides = settings(tmp_path / "text", tmp_path / "data")
    path = Path(configs.load(overrides).data.path)
    done = subprocess.run(
        [sys.executable, "-m", "mfa_train.cli", "prepare", *overrides],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"error: data.path={path}: File too large while preparing; free space" in done.stderr
    kept = digests(path.with_name(f".{path.name}.partial"))
    prepared(*overrides)
    whole = prepared(*overrides, f"data.path={tmp_path / 'whole'}")
    assert digests(path) == digests(whole.path)
    finished = {name for name in kept if name.endswith(".idx")}
    assert len(finished) >= 3 and all(kept[name] == digests(path)[name] for name in finished)


@pytest.mark.parametrize(
    "name, content, told",
    [
        (
            "a.jsonl",
            lines(["", ""]),
            "there is no text to prepare .files: 1 .*; documents: 0 .*; left out: empty documents: 2",
        ),
        ("a.txt", b"", "there is no text to prepare .*empty documents: 1"),
        ("a.txt", b"x", "too little text to hold any out .files: 1 .*documents: 1 "),
    ],
)
def test_an_empty_corpus_is_a_mistake(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        prepared(*settings(tmp_path, tmp_path / "data"))


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.0001])
def test_of_one_file_of_text_the_end_is_held_out_and_that_is_said(fraction, tmp_path):
    text = "".join(f"{number}\n" for number in range(1, 5001))  # nanoGPT's input.txt is one file
    (tmp_path / "input.txt").write_text(text)
    tokenizer = byte_level_tokenizer(tmp_path / "tokenizer.json", random_texts(5))
    said: list[str] = []
    corpus = prepared(
        "data=files",
        f"data_dir={tmp_path}",
        f"data.files=[{tmp_path}/input.txt]",
        f"data.tokenizer={tokenizer}",
        f"data.held_out_fraction={fraction}",
        say=said.append,
    )
    train, held_out = (
        corpus.tokenizer.text_bytes(shards.read(0, shards.num_tokens)).decode()
        for shards in (corpus.train, corpus.held_out)
    )
    assert (
        train + held_out == text
        and (train.endswith("\n") or fraction < 0.01)
        and 0 < len(held_out) < 2 * max(fraction * len(text), 8)
    )
    assert "held out is the end of each document" in " ".join(said) and corpus.manifest["ends_held_out"]


def test_what_was_prepared_is_told_at_the_end_with_the_next_command(text_files, tmp_path):
    said: list[str] = []
    data = dataclasses.replace(configs.load(settings(text_files, tmp_path)).data, path=f"{tmp_path}/it's here, a=b")
    prepare_all(data, said.append, check=True)
    assert "  files: 3 (1 of JSON lines, 1 of JSON lines in gz, 1 of Parquet)" in said and any(
        line.startswith("  documents: 450 (") for line in said
    )
    words = shlex.split(said[-1])
    again = configs.load(words[2:]).data
    assert words[:2] == ["python", "train.py"] and again.path == data.path and again.vocab_size == 600
    assert open_all(again)


def test_shards_that_would_be_too_many_are_refused_before_anything_is_read(text_files, tmp_path):
    with pytest.raises(
        ConfigError, match=r"data.shard_bytes=1: would make [\d,]+ shards of files; type data.shard_bytes=\d+ or more"
    ):
        prepared(*settings(text_files, tmp_path), "data.shard_bytes=1")


@pytest.mark.parametrize("path", ["", "/", "..", "x" * 250, "a\0b"])
def test_a_path_that_can_be_no_folder_is_told(path, text_files, tmp_path):
    data = configs.load(settings(text_files, tmp_path)).data
    data.path = path  # some of these the schema itself refuses
    with pytest.raises(ConfigError, match="data.path=.*: can be no folder"):
        prepare(data, print)


def test_another_tokenizer_than_the_corpus_has_is_refused(text_files, tmp_path):
    corpus = prepared(*settings(text_files, tmp_path))
    before = digests(corpus.path)
    for number, overrides in enumerate(([f"data.tokenizer={corpus.path}/tokenizer.model"], ["data.shard_bytes=30000"])):
        with pytest.raises(ConfigError, match=["data.tokenizer=.*another tokenizer", "data.shard_bytes=30000"][number]):
            prepared(*settings(text_files, tmp_path), *overrides, f"data.path={corpus.path}")
    again = prepared(*settings(text_files, tmp_path / "given"), f"data.tokenizer={corpus.path}/tokenizer.model")
    assert Path(again.path).name == f"files-{Path(corpus.path).name}"
    assert all(digests(again.path)[name] == before[name] for name in before if name != "manifest.json")


@pytest.mark.parametrize(
    "override",
    [
        "data.files=['https://me:hunter2@host/a.jsonl']",
        "data.files=['https://host/a.jsonl?X-Amz-Signature=hunter2']",
        "data.path=s3://AK:hun/ter2@bucket/x",
        "data.corpora={a: 's3://AK:hunter2@bucket/x'}",
        "data.tokenizer='https://host/t.json?sig=hunter2'",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(override):
    with pytest.raises(ConfigError, match="credentials stand in the environment") as error:
        configs.load(["data=files", override])
    assert "hun" not in str(error.value) and "ter2" not in str(error.value)


def test_a_bad_line_stops_the_preparation_and_keeps_what_was_finished(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(random_texts(150)) + b"{broken\n")
    overrides = settings(tmp_path, tmp_path / "data")
    with pytest.raises(DataError, match="a.jsonl:151: not a JSON object"):
        prepared(*overrides)
    path = Path(configs.load(overrides).data.path)
    assert not path.exists() and len(list(path.with_name(f".{path.name}.partial").glob("train-*.idx"))) >= 2
