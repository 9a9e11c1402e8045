"""A corpus's manifest that someone has changed: refused by one line that names it, or of the same meaning, and in no
time."""

import copy
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from mfa_train.data.manifest import _require, read_manifest
from mfa_train.data.shards.cache import ShardCache
from mfa_train.errors import DataError, UserError
from tests.data.corpora import opened, prepared, random_texts, write
from tests.forgeries import ODD, changed, places


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder / "text", "a.jsonl", random_texts(60))
    return Path(
        prepared(
            "data=files",
            f"data_dir={folder}",
            f"data.files=['{folder}/text/*']",
            "data.vocab_size=512",
            "data.shard_bytes=10000",
            "data.held_out_fraction=0.2",
        ).path
    )


def test_no_forged_field_of_a_manifest_is_a_bug_or_a_hang(corpus, tmp_path):
    copied = tmp_path / "corpus"
    shutil.copytree(corpus, copied)
    manifest, whole = read_manifest(corpus), opened(corpus)
    meaning = whole.train.read(0, whole.train.num_tokens)
    refused = 0
    start = time.monotonic()
    for path in places(manifest):
        for value in (places, *ODD):
            forged = changed(manifest, path, value)
            (copied / "manifest.json").write_text(json.dumps(forged))
            try:
                one = opened(copied)
                one.identity(), one.fingerprint("held_out"), one.held_out.read(0, one.held_out.num_tokens)
                assert np.array_equal(one.train.read(0, one.train.num_tokens), meaning) or path[-1] in (
                    "first_token",
                    "shards",
                )
            except UserError as error:
                assert "\n" not in str(error) and str(copied) in str(error), (path, value, str(error))
                refused += 1
    assert refused > 300 and time.monotonic() - start < 20


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"[" * 100_000,
        b"\xff",
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": 3}',
        b'{"format": 3.0}',
        b'{"format": true}',
    ],
)
def test_what_is_no_manifest_is_told(content, tmp_path):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match="manifest.json: not a manifest, or damaged"):
        read_manifest(tmp_path)


def forgery(corpus: Path, **fields) -> dict:
    manifest = copy.deepcopy(read_manifest(corpus))
    source = fields.pop("source", manifest["source"])
    manifest["splits"]["train"]["shards"][0] |= fields
    return manifest | {"source": source}


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"first_token": -5}, "first_token is -5"),
        ({"tokens": True}, "tokens is True"),
        ({"tokens": 7}, "do not add up"),
        ({"name": "../x"}, "expected a plain name"),
        ({"name": "/etc/x"}, "expected a plain name"),
        ({"name": "https://h/x"}, "expected a plain name"),
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"sha256": {"bin": "x"}}, "expected 64 hexadecimal"),
    ],
)
def test_a_shard_is_what_a_preparation_writes(fields, told, corpus):
    with pytest.raises(ValueError, match=told):
        _require(forgery(corpus, **fields), str(corpus))


@pytest.mark.parametrize(
    "path, name, allowed",
    [
        ("/here", "/corpora/x", True),
        ("/here", "https://h/x", True),
        ("/here", "x/y", False),
        ("s3://bucket/c", "x-00000", True),
        ("s3://bucket/c", "s3://bucket/other/x", True),
        ("s3://bucket/c", "s3://other/x", False),
        ("s3://bucket/c", "/etc/passwd", False),
        ("s3://bucket/c", "file:///etc/passwd", False),
        ("s3://bucket/c", "s3://bucket/../other/x", False),
    ],
)
def test_megatron_shards_lie_where_whoever_wrote_the_manifest_may_say(path, name, allowed, corpus):
    manifest = forgery(corpus, name=name, source="megatron")
    if allowed:
        return _require(manifest, path)
    with pytest.raises(ValueError, match="lies elsewhere|expected a plain name"):
        _require(manifest, path)
    return None


def test_a_manifest_behind_a_url_is_held_to_the_same(corpus, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/forged/manifest.json", json.dumps(forgery(corpus, name="/etc/passwd", source="megatron")).encode())
    with pytest.raises(DataError, match="memory://forged/manifest.json: not a manifest, or damaged .*lies elsewhere"):
        read_manifest("memory://forged", ShardCache(tmp_path, 10**6))
