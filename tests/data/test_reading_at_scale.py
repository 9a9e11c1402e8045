"""Many nodes read one corpus from object storage: each fetches its share, and together they read every sample once."""

import dataclasses
import functools
import json
import statistics
import tracemalloc
from pathlib import Path

import fsspec
import numpy as np
import pytest

from mfa_train import config as configs
from mfa_train.data.corpora import open_all, prepare_all
from mfa_train.data.preparing import encode
from mfa_train.data.reading.batches import Batches, Share
from mfa_train.data.shards import cache as shard_cache
from mfa_train.data.shards.cache import ShardCache
from mfa_train.data.shards.fetch_ahead import FetchAhead
from mfa_train.data.shards.file_systems import FileSystems
from mfa_train.data.shards.parts import Parts, write_parts
from mfa_train.data.shards.shard import Shard
from mfa_train.errors import DataError
from tests.data.corpora import byte_level_tokenizer, random_texts, write
from tests.data.simulated_cluster import Tokens, corpora, put, read_by_node, write_tokens

NODES, RANKS, STEPS, SEQUENCE, PART = 16, 4, 4, 64, 4096
WORLD = NODES * RANKS
BLOCK = 64 * SEQUENCE
"""Tokens of a lane that are shuffled among each other: eight parts."""


@pytest.fixture
def storage(object_storage, monkeypatch):
    for key, value in object_storage.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(shard_cache, "FIRST_PAUSE_SECONDS", 0.01)
    yield object_storage
    object_storage.faults.clear()


def bucket(name: str):
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.mkdir(f"s3://{name}")
    return filesystem


def test_64_ranks_of_16_nodes_read_every_sample_once_and_fetch_their_share(storage, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    shards = write_tokens(corpus, 16, 4 * BLOCK, PART)
    put(bucket("scale"), corpus, "s3://scale/corpus")
    data = dataclasses.replace(
        configs.load(["data=prepared", "data.path=s3://scale/corpus", "data.lanes=16"]).data,
        shuffle_tokens=BLOCK,
        cache_dir=str(tmp_path / "cache"),
    )
    alone = Batches(corpora(Tokens(str(corpus), shards, ShardCache(tmp_path, 0))), data, SEQUENCE, 1, WORLD)
    clients = FileSystems()
    with clients.of("s3://scale/corpus/train-00000.bin", False) as (client, path):
        client.info(path)

    def opened(cache: ShardCache) -> Tokens:
        return Tokens("s3://scale/corpus", shards, cache)

    def served():
        found, storage.served = storage.served, []
        return found

    nodes = [
        read_by_node(node, RANKS, WORLD, STEPS, opened, data, SEQUENCE, WORLD, served, clients) for node in range(NODES)
    ]

    for step in range(STEPS):
        numbers = np.concatenate([share for node in nodes for share in node.shares[step]])
        assert sorted(numbers) == list(range(step * WORLD, (step + 1) * WORLD))
        windows = np.concatenate([read for node in nodes for read in node.reads[step]])
        assert np.array_equal(windows, alone.read(numbers))

    shard, blocks = 4 * BLOCK * 2, 2 * BLOCK * 2  # bytes; of a node's one lane the blocks of now and next
    for node in nodes:
        tokens = [served for served in node.all if served.path.endswith(".bin")]
        fetched = sum(one.bytes for one in tokens)
        assert node.windows_bytes <= fetched <= blocks + 3 * PART < shard  # blocks begin and end within parts
        assert max(one.bytes for one in tokens) == PART
        sums = [served.path for served in node.all if served.path.endswith(".parts")]
        assert len(sums) == len(set(sums)) <= 3  # once for all ranks of the node
        first = sum(one.bytes for one in node.first if one.path.endswith(".bin"))
        assert first <= blocks + 3 * PART
    assert len({node.all[0].path for node in nodes}) > NODES // 2  # they don't all begin with the same shard
    assert statistics.median(seconds for node in nodes for seconds in node.start_seconds) < 1.0

    # Of a rank's own memory, not its node's files: no block, and no shard.
    cache = ShardCache(f"{data.cache_dir}/0", data.cache_bytes)
    cache.file_systems = clients
    mine = Batches(corpora(opened(cache)), data, SEQUENCE, 1, WORLD, Share(0, WORLD, RANKS))
    mine.of(0)
    tracemalloc.start()
    for step in range(1, STEPS):
        mine.of(step * WORLD)
    assert tracemalloc.get_traced_memory()[1] < 16 * PART
    tracemalloc.stop()


def test_a_prepared_corpus_is_read_in_parts_that_are_vouched_for(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "write_parts", functools.partial(write_parts, part_bytes=PART))
    texts = random_texts(120)
    write(tmp_path / "text", "a.jsonl", texts)
    tokenizer = byte_level_tokenizer(tmp_path / "tokenizer.json", texts)
    given = [f"data.files=['{tmp_path}/text/*']", f"data.tokenizer={tokenizer}", "data.shard_bytes=30000"]
    data = configs.load(["data=files", f"data_dir={tmp_path}", *given, "data.held_out_fraction=0.2"]).data
    ((_, manifest),) = prepare_all(data, lambda message: None).items()
    prepare_all(data, lambda message: None, check=True)  # which vouches for the checksums of parts, too
    filesystem = bucket("parts")
    put(filesystem, Path(data.path), "s3://parts/corpus")
    far = dataclasses.replace(
        configs.load(["data=prepared", "data.path=s3://parts/corpus"]).data, lanes=4, cache_dir=str(tmp_path / "cache")
    )

    def batches(of, name: str, manifests=None) -> Batches:
        of = dataclasses.replace(of, lanes=4, shuffle_tokens=2000, cache_dir=str(tmp_path / name))
        return Batches(open_all(of, manifests=manifests), of, 32, 1, 16)

    storage.served.clear()
    storage.faults[:] = ["500", None, "reset", None, "slow"]
    near, remote = batches(data, "unused"), batches(far, "cache", {far.name: manifest})
    steps = near.samples[0].shards.num_tokens // (32 * 16)
    assert all(np.array_equal(remote.of(16 * step), near.of(16 * step)) for step in range(steps + 5))
    assert not any(served.path.endswith("manifest.json") for served in storage.served)  # another rank had read it
    assert near.fingerprint == remote.fingerprint
    storage.faults.clear()

    # The same shards as data=megatron's, of which parts of the index and of the tokens are looked at.
    megatron = ["data=megatron", "data.files=['s3://parts/corpus/train-*.bin']", f"data.path={tmp_path}/megatron"]
    shards = configs.load([*megatron, f"data.tokenizer={tokenizer}", "data.held_out_fraction=0.2"]).data
    prepare_all(shards, lambda message: None)
    read = open_all(dataclasses.replace(shards, cache_dir=str(tmp_path / "megatron-cache")))[shards.name].train
    assert np.array_equal(read.read(0, 50), near.samples[0].shards.read(0, 50))

    content = filesystem.cat("s3://parts/corpus/train-00001.bin")
    filesystem.pipe("s3://parts/corpus/train-00001.bin", content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    with pytest.raises(DataError, match=r"train-00001.bin: damaged \(fetched twice"):
        damaged = batches(far, "anew")
        for step in range(steps):
            damaged.read(damaged.share(16 * step))


def test_a_rank_of_1024_looks_up_what_it_reads_of_a_trillion_tokens_and_of_no_other_rank(tmp_path, monkeypatch):
    parts = Parts(2**20, "0" * 64)
    shards = [Shard(f"train-{number:05}", 10**8, "uint16", 0, "0" * 64, parts) for number in range(10_000)]
    corpus = Tokens("s3://far/corpus", shards, ShardCache(tmp_path, 0))
    data = configs.load(["data=prepared", "data.path=s3://far/corpus"]).data
    batches = Batches(corpora(corpus), data, 4096, 1, 1024, Share(500, 1024, 8))
    asked, ahead = [], batches.samples[0].parts_ahead

    def counted(*given):
        asked.append(given)
        return ahead(*given)

    monkeypatch.setattr(batches.samples[0], "parts_ahead", counted)
    wanted = batches.ahead.wanted(0, 500)
    assert wanted is not None and len(asked) == 1
    own = [batches.samples[0].order.place(batches.share(first)).start.tolist() for first in (0, 1024)]
    run = batches.samples[0].run(0)
    needed = {(0, part) for (start,) in own for part in run.parts_between(start, start + 4097)}
    assert set(wanted[: len(needed)]) == needed  # first what is read first
    assert len(wanted) <= 2 * (2**25 // 2**20 + 2)  # then the blocks of its lane now and next


def test_no_file_of_a_corpus_is_looked_at_before_it_is_read(tmp_path):
    """A thousand ranks would look at all of them, on one file system."""
    folder = tmp_path / "corpus"
    shards = [Shard(f"train-{number:05}", 1000, "uint16", 0, "0" * 64) for number in range(3)]
    for noted in (2, 3):
        notes = {f"{shard.name}.bin": [2000, 1] for shard in shards[:noted]}
        (tmp_path / ".corpus.verified.json").write_text(json.dumps(notes))
        store = Tokens(str(folder), shards, ShardCache(tmp_path, 0)).train
        assert FetchAhead([store]).idle == (noted == 3)  # though none of the files is there


def test_a_file_system_that_fails_takes_no_other_with_it_that_is_equal_to_fsspec(tmp_path):
    clients, url = FileSystems(), f"file://{tmp_path}/shard"
    with pytest.raises(TimeoutError), clients.of(url, False) as (failing, _):
        with clients.of(url, False) as (other, _):
            assert other is not failing and other == failing
        raise TimeoutError
    with clients.of(url, False) as (next, _):
        assert next is other
