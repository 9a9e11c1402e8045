"""Shards that other tools made are used where they lie, once they are what they claim to be."""

import struct

import numpy as np
import pytest

from mfa_train.data.shards.megatron_form import write_shard
from mfa_train.data.shards.megatron_index import MegatronIndex
from mfa_train.errors import ConfigError, DataError
from tests.data.corpora import byte_level_tokenizer, prepared

DOCUMENTS = [np.array([*range(1, 2 + number % 7), 0]) for number in range(200)]
"""Each ends in token 0."""


@pytest.fixture
def shards(tmp_path):
    """Two shards, a.b and valid, beside the tokenizer they were made with, whose end-of-text token is 0."""
    byte_level_tokenizer(tmp_path / "tokenizer.json", ["some text"])
    for name, documents in (("a", DOCUMENTS), ("valid", DOCUMENTS[:50])):
        write_shard(tmp_path / name, documents, 500)
    for suffix in ("bin", "idx"):
        (tmp_path / f"a.{suffix}").rename(tmp_path / f"a.b_text_document.{suffix}")
    return tmp_path


def settings(folder, *overrides: str) -> list[str]:
    return [
        "data=megatron",
        f"data_dir={folder / 'data'}",
        f"data.files=['{folder}/a.b_text_document.bin']",
        f"data.tokenizer={folder}/tokenizer.json",
        *overrides,
    ]


def manifest_of(folder, *overrides: str) -> dict:
    return prepared(*settings(folder, *overrides)).manifest


def test_tokens_are_read_where_they_lie(shards):
    corpus = prepared(*settings(shards, "data.held_out_fraction=0.1"))
    for split, documents in ((corpus.train, DOCUMENTS[:180]), (corpus.held_out, DOCUMENTS[180:])):
        assert np.array_equal(split.read(0, split.num_tokens), np.concatenate(documents))


def test_the_last_documents_of_a_shard_are_held_out(shards):
    manifest = manifest_of(shards, "data.held_out_fraction=0.1")
    lengths = [len(document) for document in DOCUMENTS]
    (train,), (held_out,) = (manifest["splits"][split]["shards"] for split in ("train", "held_out"))
    assert train["name"] == held_out["name"] == str(shards / "a.b_text_document")
    assert (train["first_token"], train["tokens"], train["documents"]) == (0, sum(lengths[:180]), 180)
    assert (held_out["first_token"], held_out["tokens"]) == (sum(lengths[:180]), sum(lengths[180:]))
    assert held_out["documents"] == 20
    assert train["dtype"] == "uint16" and train["bytes"] is None and train["sha256"]["bin"] is None
    assert manifest["separator"] and manifest["tokenizer_file"] == "tokenizer.json"
    written = (shards / "data" / f"megatron-{shards.name}").iterdir()
    assert sorted(path.name for path in written) == ["manifest.json", "tokenizer.json"]


def test_held_out_files_are_held_out_whole(shards):
    splits = manifest_of(shards, f"data.held_out_files=['{shards}/valid']", f"data.files=['{shards}/*.bin']")["splits"]
    for split, name, documents in (("train", "a.b_text_document", 200), ("held_out", "valid", 50)):
        (shard,) = splits[split]["shards"]
        assert (shard["name"], shard["documents"]) == (str(shards / name), documents)


def test_documents_of_several_sequences_are_kept_whole(tmp_path):
    builder = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    import torch

    made = builder.IndexedDatasetBuilder(str(tmp_path / "x.bin"), dtype=np.int32)
    for document in ([[1, 2], [3, 4, 0]], [[5, 0]]):
        for sentence in document:
            made.add_item(torch.tensor(sentence))
        made.end_document()
    made.finalize(str(tmp_path / "x.idx"))
    index = MegatronIndex("x.idx", (tmp_path / "x.idx").read_bytes())
    assert index.ends.tolist() == [5, 7] and index.dtype == np.int32


def test_documents_without_a_separator_are_recorded(shards):
    write_shard(shards / "plain", [np.array([1, 2, 3])] * 50, 500)
    assert manifest_of(shards, f"data.files=['{shards}/plain.bin']")["separator"] is False


def cut_off(folder):
    path = folder / "a.b_text_document.bin"
    path.write_bytes(path.read_bytes()[:-2])


def cut_off_index(folder):
    path = folder / "a.b_text_document.idx"
    path.write_bytes(path.read_bytes()[:-8])


def other_tokenizer(folder):
    write_shard(folder / "a", [np.array([1, 60000])] * 50, 65000)
    for suffix in ("bin", "idx"):
        (folder / f"a.{suffix}").rename(folder / f"a.b_text_document.{suffix}")


@pytest.mark.parametrize(
    "damage, told",
    [
        (cut_off, "a.b_text_document.bin: .* bytes, but its index tells of"),
        (cut_off_index, "a.b_text_document.idx: cut off"),
        (other_tokenizer, "a.b_text_document.bin: holds token 60000, but data.tokenizer has"),
        (lambda folder: (folder / "a.b_text_document.idx").unlink(), "a.b_text_document.idx: no such file"),
    ],
)
def test_a_shard_that_is_not_what_it_claims_is_named(damage, told, shards):
    damage(shards)
    with pytest.raises(DataError, match=told):
        prepared(*settings(shards))


@pytest.mark.parametrize(
    "override, told",
    [
        ("data.tokenizer=null", "data.tokenizer=null: expected the one these tokens were made with"),
        ("data.files=[]", r"data.files=\[\]: expected the shards"),
        ("data.files=[/nowhere/x.bin]", "data.files=/nowhere/x.bin: no such file"),
        ("data.eos_token='<eos>'", "data.eos_token=<eos>: tokenizer.json has no such token"),
    ],
)
def test_what_is_missing_is_told(override, told, shards):
    with pytest.raises(ConfigError, match=told):
        prepared(*settings(shards, override))


@pytest.mark.parametrize("fraction, documents", [(0.001, DOCUMENTS), (0.05, [1 + np.arange(400) % 200])])
def test_where_documents_are_too_few_the_last_tokens_are_held_out(fraction, documents, shards):
    write_shard(shards / "few", documents, 500)
    said = []
    corpus = prepared(
        *settings(shards, f"data.files=['{shards}/few.bin']", f"data.held_out_fraction={fraction}"), say=said.append
    )
    tokens = np.concatenate(documents)
    at = len(tokens) - round(fraction * len(tokens))
    assert np.array_equal(corpus.train.read(0, corpus.train.num_tokens), tokens[:at])
    assert np.array_equal(corpus.held_out.read(0, corpus.held_out.num_tokens), tokens[at:])
    assert "held out is the end of each shard" in " ".join(said)


@pytest.mark.parametrize(
    "place, value, told",
    [
        (9, struct.pack("<Q", 2), "version 2"),
        (17, b"\x06", "type code 6"),
        (18, struct.pack("<Q", 2**60), "cut off"),
        (26, struct.pack("<Q", 0), "damaged"),
        (26, struct.pack("<Q", 2**63), "cut off"),
        (34, struct.pack("<i", -1), "negative length"),
        (34, struct.pack("<i", 2**31 - 1), "end to end"),
        (-8, struct.pack("<q", 2**62), "do not cover"),
        (-8, struct.pack("<q", -1), "do not cover"),
        (0, b"x", "not a Megatron index"),
    ],
)
def test_a_forged_index_is_named(place, value, told, shards):
    path = shards / "a.b_text_document.idx"
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place : place + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"a.b_text_document.idx: .*{told}"):
        prepared(*settings(shards))
