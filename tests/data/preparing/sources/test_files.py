"""Documents from files, and their preparation: resumed after a kill, and clear about what is no text."""

import dataclasses
import gzip
import io
import json
import lzma
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from mfa_train import config as configs
from mfa_train.data.corpora import open_all, prepare_all
from mfa_train.data.manifest import read_manifest
from mfa_train.data.preparing import encode
from mfa_train.data.preparing.prepare import prepare
from mfa_train.data.preparing.sources import parquet
from mfa_train.data.preparing.sources.files import Files
from mfa_train.data.preparing.sources.tally import Tally
from mfa_train.errors import ConfigError, DataError
from tests.conftest import ROOT
from tests.data.corpora import COMPRESS, byte_level_tokenizer, digests, lines, opened, prepared, random_texts, write

TEXTS = ["one line", "two\nlines of text", "Ünïcode 漢字 🙂", "  spaces \t and tabs\n\n", "last"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst", "a.parquet"])
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
    ("a.jsonl.gz", gzip.compress(lines(TEXTS * 1000), mtime=0)[:-30], "a.jsonl.gz: damaged, or cut off"),
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


def read(path) -> tuple[list[str], str]:
    """The texts of the files at `path`, and what is told of them."""
    tally = Tally()
    return [document.text for document in Files([str(path)], "text").documents(tally)], "; ".join(tally.told())


@pytest.mark.parametrize("name", [
    "a.json", "a.JSONL", "a.jsonlines", "a.NDJSON", "a.jl", "a", "a.txt", "part-00000", "a.json.gz", "a.JSONL.GZ", "a.gz", "a.json.bz2",
    "a.jsonl.zstd", "a.json.xz", "a.dat",
])
def test_json_lines_are_known_by_what_they_hold(name, tmp_path):
    packed = {"gz": "gz", "zstd": "zst"}.get(name.lower().split(".")[-1], name.split(".")[-1])
    (tmp_path / name).write_bytes(COMPRESS.get(packed, bytes)(b"\n" + lines(["one", "x" * 10**5, "three"])))
    texts, told = read(tmp_path / name)
    assert [len(text) for text in texts] == [3, 10**5, 5]
    named = name.lower().split(".")[1:2] in (["jsonl"], ["jsonlines"], ["ndjson"], ["jl"])
    assert "JSON lines" in told and ("by what they hold" in told) != named


@pytest.mark.parametrize("form", COMPRESS)
def test_compression_is_known_by_what_a_file_holds(form, tmp_path):
    (tmp_path / "a").write_bytes(COMPRESS[form](b"some text"))
    assert read(tmp_path / "a") == (["some text"], (
        f"files: 1 (1 of text in {form}); by what they hold, not by their names: {tmp_path}/a is text in {form}; "
        "documents: 1 (9 bytes of text)"))


def test_parquet_is_known_by_what_it_holds_and_rows_without_text_are_counted(tmp_path):
    write(tmp_path, "a.parquet", ["x", None, "", "y"])
    (tmp_path / "a.parquet").rename(tmp_path / "a")
    texts, told = read(tmp_path / "a")
    assert texts == ["x", "y"] and "a is Parquet" in told and "left out: empty documents: 1, rows without text (null): 1" in told


@pytest.mark.parametrize("name, content", [
    ("a.txt", b"{ begins like JSON }\nand goes on"), ("a.txt", b'{"text": "x"}\nand then\nprose'),
    ("a.txt", b"{}\nprose"), ("a.txt", b'{"a": 1}'),
    ("a.md", b"[1] a note\n[2] another"), ("a", b"{ text }"), ("a.py", b"{}\n"), ("a.ipynb", b'{\n "cells": []\n}'),
    ("a.html", b"<html>x"), ("a.txt", b"BZh9 is text"),
])
def test_a_text_that_begins_like_something_else_stays_a_text(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name)[0] == [content.decode()]


PARQUET = io.BytesIO()
pyarrow.parquet.write_table(pyarrow.table({"text": ["x"]}), PARQUET)


@pytest.mark.parametrize("name, content, told", [
    ("a.json", b'[{"text": "x"}]', "not one object a line: type jq -c '.\\[\\]'"), ("a", b'[\n {"text": "x"}]', "jq -c"),
    ("a.txt", b'[{"text": "x"}]', "jq -c"),
    ("a.json", b'{\n "text": "x"\n}', "jq -c \\. FILE"),
    ("a.jsonl", b'{\n "text": "x"\n}', "a.jsonl:1: not a JSON object.*jq -c"),
    ("a.json", b'"x"\n', "not one object a line"),
    ("a.jsonl", b'[{"text": "x"}]', "a.jsonl:1: no text .*jq -c"),
    ("a.txt", b'{"body": "x"}\n{"body": "y"}\n', "a.txt:1: no text under 'text' .keys .'body'"),
    ("a.jsonl", b'{"text": 5}', "a.jsonl:1: .*but int"), ("a.csv", b"text\nx", "data.dataset=csv"),
    ("a.tsv", b"text\nx", "a table"), ("a", b"%PDF-1.4", "a PDF"),
    ("a.txt", b"PK\x03\x04", "zip archive"),
    ("a.tar.gz", gzip.compress(bytes(257) + b"ustar" + bytes(300), mtime=0), "a tar archive"),
    ("a.txt", b"<!DOCTYPE html><p>", "a page of HTML"),
    ("a.txt", "text".encode("utf-16"), "UTF-16: .*iconv"), ("a.txt", "text".encode("utf-32"), "UTF-32: .*iconv -f UTF-32"),
    ("a.json-seq", b'\x1e{"text": "x"}\n\x1e{"text": "y"}\n', "JSON text sequences"),
    ("a.txt", b'{"text": "x"}{"text": "y"}', "not one object a line"), ("a.dat", b'{"text": "x"}\r{"text": "y"}\r', "not one object a line"),
    ("a.bin", b"ARROW1\0\0", "data.dataset=arrow"),
    ("a.parquet.gz", gzip.compress(PARQUET.getvalue(), mtime=0), "Parquet inside"),
    ("a.zst", zstandard.compress(PARQUET.getvalue()), "Parquet inside"), ("a.parquet", b"", "not a whole Parquet file"),
    ("a.jsonl.gz", gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "compressed twice"),
    ("a.jsonl.gz", lines(["x"]), "damaged, or cut off behind byte 0: its beginning is no gz"),
])
def test_what_is_clearly_no_text_is_refused_by_its_name_with_what_to_do(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"/{name}:.*{told}" if f"{name}:" not in told else told) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", COMPRESS)
@pytest.mark.parametrize("damage, told", [
    (lambda whole: whole + whole[:-9], "ends inside a frame"), (lambda whole: whole + b"x", "what follows is no .* frame"),
    (lambda whole: whole + b"rubbish " * 9, "what follows is no .* frame"),
    (lambda whole: whole + b"?" + whole[1:], "what follows is no .* frame"),
    (lambda whole: b"", "0: it is empty"), (lambda whole: whole[:3], "(ends inside|its beginning is no)"),
])
def test_every_frame_is_read_and_one_that_is_damaged_is_told(form, damage, told, tmp_path):
    whole = COMPRESS[form](lines(TEXTS))
    (tmp_path / f"whole.jsonl.{form}").write_bytes(whole * 3)
    assert read(tmp_path / f"whole.jsonl.{form}")[0] == TEXTS * 3
    (tmp_path / f"a.jsonl.{form}").write_bytes(damage(whole))
    with pytest.raises(DataError, match=f"a.jsonl.{form}: damaged, or cut off behind byte .*{told}"):
        read(tmp_path / f"a.jsonl.{form}")


def test_a_small_file_that_unpacks_to_gigabytes_costs_no_more_than_what_is_read_of_it(tmp_path):
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    content = b"".join([*(packer.compress(bytes(2**24)) for _ in range(24)), packer.flush()])
    for name in ("a.txt.zst", "a.jsonl.zst"):
        (tmp_path / name).write_bytes(content)
        tracemalloc.start()
        with pytest.raises(DataError, match="more than 67,108,864 bytes"):
            read(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**26
        tracemalloc.stop()
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=30)).compressobj()
    (tmp_path / "wide.txt.zst").write_bytes(wide.compress(b"x" * 10**4) + wide.flush())
    packer = lzma.LZMACompressor(filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**29}])
    (tmp_path / "wide.txt.xz").write_bytes(packer.compress(b"x" * 10**4) + packer.flush())
    for name in ("wide.txt.zst", "wide.txt.xz"):
        with pytest.raises(DataError, match="its window is above 134,217,728 bytes"):
            read(tmp_path / name)


def test_a_string_that_many_rows_share_is_not_spread_out(tmp_path, monkeypatch):
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, pyarrow.int32()), pyarrow.array(["x" * 2**22]))
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "a.parquet", compression="zstd", write_statistics=False)
    before = pyarrow.total_allocated_bytes()
    documents = Files([f"{tmp_path}/a.parquet"], "text").documents()
    assert sum(len(next(documents).utf8) for _ in range(20)) == 20 * 2**22
    assert pyarrow.default_memory_pool().max_memory() < before + 2**27
    plain = pyarrow.array(["x" * 2**20] * 40)
    monkeypatch.setattr(parquet, "SUSPICIOUS_BYTES", 2**24)
    pyarrow.parquet.write_table(pyarrow.table({"text": plain}), tmp_path / "b.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match="b.parquet: row group 0 unpacks from .* to 41,.* which no text does"):
        read(tmp_path / "b.parquet")


def test_a_line_of_a_million_small_things_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x", "y": [' + b"{}," * 2**21 + b"{}]}\n")
    with pytest.raises(DataError, match="a.jsonl:1: a line of .* with 2,097,15. objects, lists and keys"):
        read(tmp_path / "a.jsonl")


def test_no_damaged_file_is_a_bug(tmp_path):
    """Bytes flipped, cut, put in and put behind, in every form and under any ending."""
    chance = random.Random(0)
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": random_texts(20)}), table, row_group_size=5)
    whole = [table.getvalue(), lines(TEXTS), *(pack(lines(TEXTS)) * 2 for pack in COMPRESS.values())]
    refused = 0
    for _ in range(800):
        content = bytearray(chance.choice(whole))
        for _ in range(chance.choice((1, 1, 3))):
            place = chance.randrange(len(content) + 1)
            content[place : place + chance.choice((0, 1, 8, 999))] = chance.choice((b"", b"\0", b"\xff" * 8, chance.randbytes(3)))
        path = tmp_path / chance.choice(("a", "a.jsonl", "a.parquet", "a.gz", "a.json.zst", "a.txt", "a.jsonl.xz", "a.bz2"))
        path.write_bytes(content)
        try:
            read(path)
        except DataError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            refused += 1
    assert refused > 300


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A folder with two files, and much that isn't one."""
    for folder in ("sub/.git", ".hidden", "deeper/still"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a.txt", ".dot.txt", "sub/.git/b.txt", ".hidden/c.txt", "deeper/still/d.txt"):
        (tmp_path / name).write_text("text")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "broken.txt").symlink_to("/nowhere")
    (tmp_path / "circle.txt").symlink_to("circle.txt")
    (tmp_path / "sub" / "up").symlink_to("..")
    return tmp_path


def test_a_pattern_takes_files_and_tells_what_it_passes_over(mixed):
    texts, told = read(f"{mixed}/**/*")
    assert texts == ["text"] * 2
    for part in ("3 files with a dot before their name or folder passed over", "2 links that lead to no file passed over, as ",
                 "1 pipes, sockets and devices passed over", "1 links to folders passed over"):
        assert part in told
    assert "folders passed over, as" in read(f"{mixed}/*")[1]
    assert read(f"{mixed}/.*")[0] == read(f"{mixed}/.hidden/*")[0] == read(f"{mixed}/sub/.git/b.txt")[0] == ["text"]


def test_folders_behind_links_are_told_of_wherever_a_pattern_would_go_through_them(tmp_path):
    for name in ("disk/b.jsonl", "corpus/a.jsonl", "corpus/one/c.jsonl", "corpus/one/two/d.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(lines(["text"]))
    for name in ("corpus/link", "corpus/one/two/link"):
        (tmp_path / name).symlink_to(tmp_path / "disk")
    told = "{} links to folders passed over, as " + f"{tmp_path}/corpus/link"
    for pattern, count in (("**/*.jsonl", 2), ("**/*", 2), ("*/*.jsonl", 1), ("*/*/*.jsonl", 1), ("o*/**/*.jsonl", 2)):
        assert told.format(count) in read(f"{tmp_path}/corpus/{pattern}")[1]
    assert "links" not in read(f"{tmp_path}/corpus/*.jsonl")[1] and read(f"{tmp_path}/corpus/link/*.jsonl")[0] == ["text"]


@pytest.mark.parametrize("name, told", [
    ("", "a folder; type data.files='.*/\\*\\*/\\*.'"), ("sub", "a folder; type"), ("pipe.txt", "a pipe; expected a file"),
    ("broken.txt", "no such file"), ("circle.txt", "cannot be read"), ("sub/*", "matches no file, but 2 that are passed over"),
])
def test_what_is_no_file_is_refused_with_what_to_type(name, told, mixed):
    with pytest.raises(ConfigError, match=f"data.files=.*: {told}"):
        Files([f"{mixed}/{name}"], "text")


@pytest.mark.parametrize("name", ["a[1].txt", "a*b?.txt", "a::b.txt", "a\nb\x1b[31m.txt", "\udcff\udcfe.txt", "ü 漢.txt", "a,b='c'.txt"])
def test_any_name_is_taken(name, tmp_path):
    (tmp_path / name).write_text("text")
    assert read(tmp_path / name)[0] == ["text"] and len(Files([str(tmp_path / name)], "text").version()) == 16


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


@pytest.mark.parametrize("content", [b"", b"[]", b"5", b"[" * 10**5, "parts: 5", "parts: [5]", "documents: -1", "name: ../x"])
def test_a_damaged_progress_begins_anew(content, text_files, tmp_path):
    whole = prepared(*settings(text_files, tmp_path), f"data.path={tmp_path}/whole")
    data = configs.load([*settings(text_files, tmp_path), f"data.path={tmp_path}/again"]).data
    work = encode.Encoding(Path(data.path), Files(data.files, "text"), data, None, print)
    work.work.mkdir()
    if isinstance(content, str):
        entry = read_manifest(whole.path)["splits"]["train"]["shards"][0]
        parts = {"parts: 5": 5, "parts: [5]": [5], "documents: -1": [{"documents": -1, "splits": {"train": entry}}],
                 "name: ../x": [{"documents": 1, "splits": {"train": entry | {"name": "../x"}}}]}[content]
        content = json.dumps({"settings": work.settings, "encoding": encode.ENCODING, "parts": parts}).encode()
    (work.work / "progress.json").write_bytes(content)
    assert digests(prepare(data, lambda line: None).path) == digests(whole.path)


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


@pytest.mark.parametrize("name, content, told", [
    ("a.jsonl", lines(["", ""]), "there is no text to prepare .files: 1 .*; documents: 0 .*; left out: empty documents: 2"),
    ("a.txt", b"", "there is no text to prepare .*empty documents: 1"),
    ("a.txt", b"x", "too little text to hold any out .files: 1 .*documents: 1 "),
])
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
    corpus = prepared("data=files", f"data_dir={tmp_path}", f"data.files=[{tmp_path}/input.txt]", f"data.tokenizer={tokenizer}",
                      f"data.held_out_fraction={fraction}", say=said.append)
    train, held_out = (corpus.tokenizer.text_bytes(shards.read(0, shards.num_tokens)).decode() for shards in (corpus.train, corpus.held_out))
    assert train + held_out == text and (train.endswith("\n") or fraction < 0.01) and 0 < len(held_out) < 2 * max(fraction * len(text), 8)
    assert "held out is the end of each document" in " ".join(said) and corpus.manifest["ends_held_out"]


def test_what_was_prepared_is_told_at_the_end_with_the_next_command(text_files, tmp_path):
    said: list[str] = []
    data = dataclasses.replace(configs.load(settings(text_files, tmp_path)).data, path=f"{tmp_path}/it's here, a=b")
    prepare_all(data, said.append, check=True)
    assert "  files: 3 (1 of JSON lines, 1 of JSON lines in gz, 1 of Parquet)" in said and any(line.startswith("  documents: 450 (") for line in said)
    words = shlex.split(said[-1])
    again = configs.load(words[2:]).data
    assert words[:2] == ["python", "train.py"] and again.path == data.path and again.vocab_size == 600
    assert open_all(again)


def test_shards_that_would_be_too_many_are_refused_before_anything_is_read(text_files, tmp_path):
    with pytest.raises(ConfigError, match=r"data.shard_bytes=1: would make [\d,]+ shards of files; type data.shard_bytes=\d+ or more"):
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


@pytest.mark.parametrize("override", [
    "data.files=['https://me:hunter2@host/a.jsonl']", "data.files=['https://host/a.jsonl?X-Amz-Signature=hunter2']",
    "data.path=s3://AK:hun/ter2@bucket/x", "data.corpora={a: 's3://AK:hunter2@bucket/x'}",
    "data.tokenizer='https://host/t.json?sig=hunter2'",
])
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
