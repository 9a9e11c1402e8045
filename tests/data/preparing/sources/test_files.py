"""Documents from files: known by what they hold, and clear about what is no text."""

import gzip
import io
import lzma
import os
import random
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from mfa_train.data.preparing.sources import parquet
from mfa_train.data.preparing.sources.files import Files
from mfa_train.data.preparing.sources.tally import Tally
from mfa_train.errors import ConfigError, DataError
from tests.data.corpora import COMPRESS, lines, random_texts, write

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


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("a.jsonl", lines(["fine"]) + b"{broken\n", "a.jsonl:2: not a JSON object"),
        ("a.jsonl", lines(["fine"]) + b'{"text": "\xff"}\n', "a.jsonl:2: not a JSON object in UTF-8"),
        (
            "a.jsonl",
            lines(["fine"]) + b'{"body": "x"}\n',
            "a.jsonl:2: no text under 'text' (keys ['body']); type data.text_key",
        ),
        ("a.jsonl", b'{"text": "a\\u0000b"}\n', "a.jsonl:1: holds a NUL byte"),
        ("a.jsonl", b'{"text": "' + b"x" * 2**26 + b'"}\n', "a.jsonl:1: a line of more than 67,108,864 bytes"),
        ("a.jsonl.gz", gzip.compress(lines(TEXTS * 1000), mtime=0)[:-30], "a.jsonl.gz: damaged, or cut off"),
        ("a.jsonl.zst", zstandard.compress(lines(TEXTS * 1000))[:-30], "a.jsonl.zst: damaged, or cut off"),
        ("a.jsonl.zst", b"(\xb5/\xfdrubbish", "a.jsonl.zst: damaged, or cut off"),
        ("a.jsonl", b'{"text": "a\\ud800"}\n', "a.jsonl:1: character 1 is half of a surrogate pair"),
        ("a.parquet", b"PAR1 no", "a.parquet: not a whole Parquet file"),
        ("a.txt", b"caf\xe9", "a.txt: not UTF-8 (byte 3)"),
    ],
)
def test_what_is_no_text_is_told_with_its_place(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        list(Files([str(tmp_path / name)], "text").documents())
    assert told in str(error.value) and "\n" not in str(error.value)


def read(path) -> tuple[list[str], str]:
    """The texts of the files at `path`, and what is told of them."""
    tally = Tally()
    return [document.text for document in Files([str(path)], "text").documents(tally)], "; ".join(tally.told())


@pytest.mark.parametrize(
    "name",
    [
        "a.json",
        "a.JSONL",
        "a.jsonlines",
        "a.NDJSON",
        "a.jl",
        "a",
        "a.txt",
        "part-00000",
        "a.json.gz",
        "a.JSONL.GZ",
        "a.gz",
        "a.json.bz2",
        "a.jsonl.zstd",
        "a.json.xz",
        "a.dat",
    ],
)
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
    assert read(tmp_path / "a") == (
        ["some text"],
        (
            f"files: 1 (1 of text in {form}); by what they hold, not by their names: {tmp_path}/a is text in {form}; "
            "documents: 1 (9 bytes of text)"
        ),
    )


def test_parquet_is_known_by_what_it_holds_and_rows_without_text_are_counted(tmp_path):
    write(tmp_path, "a.parquet", ["x", None, "", "y"])
    (tmp_path / "a.parquet").rename(tmp_path / "a")
    texts, told = read(tmp_path / "a")
    assert (
        texts == ["x", "y"]
        and "a is Parquet" in told
        and "left out: empty documents: 1, rows without text (null): 1" in told
    )


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.txt", b"{ begins like JSON }\nand goes on"),
        ("a.txt", b'{"text": "x"}\nand then\nprose'),
        ("a.txt", b"{}\nprose"),
        ("a.txt", b'{"a": 1}'),
        ("a.md", b"[1] a note\n[2] another"),
        ("a", b"{ text }"),
        ("a.py", b"{}\n"),
        ("a.ipynb", b'{\n "cells": []\n}'),
        ("a.html", b"<html>x"),
        ("a.txt", b"BZh9 is text"),
    ],
)
def test_a_text_that_begins_like_something_else_stays_a_text(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name)[0] == [content.decode()]


PARQUET = io.BytesIO()
pyarrow.parquet.write_table(pyarrow.table({"text": ["x"]}), PARQUET)


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("a.json", b'[{"text": "x"}]', "not one object a line: type jq -c '.\\[\\]'"),
        ("a", b'[\n {"text": "x"}]', "jq -c"),
        ("a.txt", b'[{"text": "x"}]', "jq -c"),
        ("a.json", b'{\n "text": "x"\n}', "jq -c \\. FILE"),
        ("a.jsonl", b'{\n "text": "x"\n}', "a.jsonl:1: not a JSON object.*jq -c"),
        ("a.json", b'"x"\n', "not one object a line"),
        ("a.jsonl", b'[{"text": "x"}]', "a.jsonl:1: no text .*jq -c"),
        ("a.txt", b'{"body": "x"}\n{"body": "y"}\n', "a.txt:1: no text under 'text' .keys .'body'"),
        ("a.jsonl", b'{"text": 5}', "a.jsonl:1: .*but int"),
        ("a.csv", b"text\nx", "data.dataset=csv"),
        ("a.tsv", b"text\nx", "a table"),
        ("a", b"%PDF-1.4", "a PDF"),
        ("a.txt", b"PK\x03\x04", "zip archive"),
        ("a.tar.gz", gzip.compress(bytes(257) + b"ustar" + bytes(300), mtime=0), "a tar archive"),
        ("a.txt", b"<!DOCTYPE html><p>", "a page of HTML"),
        ("a.txt", "text".encode("utf-16"), "UTF-16: .*iconv"),
        ("a.txt", "text".encode("utf-32"), "UTF-32: .*iconv -f UTF-32"),
        ("a.json-seq", b'\x1e{"text": "x"}\n\x1e{"text": "y"}\n', "JSON text sequences"),
        ("a.txt", b'{"text": "x"}{"text": "y"}', "not one object a line"),
        ("a.dat", b'{"text": "x"}\r{"text": "y"}\r', "not one object a line"),
        ("a.bin", b"ARROW1\0\0", "data.dataset=arrow"),
        ("a.parquet.gz", gzip.compress(PARQUET.getvalue(), mtime=0), "Parquet inside"),
        ("a.zst", zstandard.compress(PARQUET.getvalue()), "Parquet inside"),
        ("a.parquet", b"", "not a whole Parquet file"),
        ("a.jsonl.gz", gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "compressed twice"),
        ("a.jsonl.gz", lines(["x"]), "damaged, or cut off behind byte 0: its beginning is no gz"),
    ],
)
def test_what_is_clearly_no_text_is_refused_by_its_name_with_what_to_do(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"/{name}:.*{told}" if f"{name}:" not in told else told) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", COMPRESS)
@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda whole: whole + whole[:-9], "ends inside a frame"),
        (lambda whole: whole + b"x", "what follows is no .* frame"),
        (lambda whole: whole + b"rubbish " * 9, "what follows is no .* frame"),
        (lambda whole: whole + b"?" + whole[1:], "what follows is no .* frame"),
        (lambda whole: b"", "0: it is empty"),
        (lambda whole: whole[:3], "(ends inside|its beginning is no)"),
    ],
)
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
    pyarrow.parquet.write_table(
        pyarrow.table({"text": rows}), tmp_path / "a.parquet", compression="zstd", write_statistics=False
    )
    before = pyarrow.total_allocated_bytes()
    documents = Files([f"{tmp_path}/a.parquet"], "text").documents()
    assert sum(len(next(documents).utf8) for _ in range(20)) == 20 * 2**22
    assert pyarrow.default_memory_pool().max_memory() < before + 2**27
    plain = pyarrow.array(["x" * 2**20] * 40)
    monkeypatch.setattr(parquet, "SUSPICIOUS_BYTES", 2**24)
    pyarrow.parquet.write_table(
        pyarrow.table({"text": plain}), tmp_path / "b.parquet", compression="zstd", use_dictionary=False
    )
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
            content[place : place + chance.choice((0, 1, 8, 999))] = chance.choice(
                (b"", b"\0", b"\xff" * 8, chance.randbytes(3))
            )
        path = tmp_path / chance.choice(
            ("a", "a.jsonl", "a.parquet", "a.gz", "a.json.zst", "a.txt", "a.jsonl.xz", "a.bz2")
        )
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
    for part in (
        "3 files with a dot before their name or folder passed over",
        "2 links that lead to no file passed over, as ",
        "1 pipes, sockets and devices passed over",
        "1 links to folders passed over",
    ):
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
    assert "links" not in read(f"{tmp_path}/corpus/*.jsonl")[1] and read(f"{tmp_path}/corpus/link/*.jsonl")[0] == [
        "text"
    ]


@pytest.mark.parametrize(
    "name, told",
    [
        ("", "a folder; type data.files='.*/\\*\\*/\\*.'"),
        ("sub", "a folder; type"),
        ("pipe.txt", "a pipe; expected a file"),
        ("broken.txt", "no such file"),
        ("circle.txt", "cannot be read"),
        ("sub/*", "matches no file, but 2 that are passed over"),
    ],
)
def test_what_is_no_file_is_refused_with_what_to_type(name, told, mixed):
    with pytest.raises(ConfigError, match=f"data.files=.*: {told}"):
        Files([f"{mixed}/{name}"], "text")


@pytest.mark.parametrize(
    "name", ["a[1].txt", "a*b?.txt", "a::b.txt", "a\nb\x1b[31m.txt", "\udcff\udcfe.txt", "ü 漢.txt", "a,b='c'.txt"]
)
def test_any_name_is_taken(name, tmp_path):
    (tmp_path / name).write_text("text")
    assert read(tmp_path / name)[0] == ["text"] and len(Files([str(tmp_path / name)], "text").version()) == 16


def test_no_file_is_a_mistake(tmp_path):
    for patterns in ([], [f"{tmp_path}/*.jsonl"], [f"{tmp_path}/none.jsonl"], ["nosuch://x/*"]):
        with pytest.raises(ConfigError, match="data.files="):
            Files(patterns, "text")
