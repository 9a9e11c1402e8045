"""Many nodes read one corpus from object storage: each fetches its share, and together they read every sample once."""

import dataclasses
import tracemalloc

import fsspec
import numpy as np
import pytest

from mfa_train import config as configs
from mfa_train.data.reading.batches import Batches
from mfa_train.data.shards.cache import ShardCache
from mfa_train.data.shards.file_systems import FileSystems
from tests.data.simulated_cluster import Tokens, put, read_by_node, write_tokens

NODES, RANKS, STEPS, SEQUENCE, PART = 16, 4, 4, 64, 4096
WORLD = NODES * RANKS
BLOCK = 64 * SEQUENCE
"""Tokens of a lane that are shuffled among each other: eight parts."""


@pytest.fixture
def counted_storage(monkeypatch):
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    from tests.data.counted_storage import CountedStorage

    storage = CountedStorage()
    for key, value in storage.environment().items():
        monkeypatch.setenv(key, value)
    yield storage
    storage.close()


def test_64_ranks_of_16_nodes_read_every_sample_once_and_fetch_their_share(counted_storage, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    shards = write_tokens(corpus, 32, 2 * BLOCK, PART)
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.mkdir("s3://scale")
    put(filesystem, corpus, "s3://scale/corpus")
    data = dataclasses.replace(
        configs.load(["data=prepared", "data.path=s3://scale/corpus", "data.lanes=16"]).data,
        shuffle_tokens=BLOCK,
        cache_dir=str(tmp_path / "cache"),
    )
    alone = Batches({"a": Tokens(str(corpus), shards, ShardCache(tmp_path, 0))}, data, SEQUENCE, 1, WORLD)

    def served():
        found, counted_storage.served = counted_storage.served, []
        return found

    clients = FileSystems()
    with clients.of("s3://scale/corpus/train-00000.bin", False) as (client, path):
        client.info(path)
    nodes = [
        read_by_node(
            node,
            RANKS,
            WORLD,
            STEPS,
            lambda cache: Tokens("s3://scale/corpus", shards, cache),
            data,
            SEQUENCE,
            WORLD,
            served,
            clients,
        )
        for node in range(NODES)
    ]

    for step in range(STEPS):
        numbers = np.concatenate([share for node in nodes for share in node.shares[step]])
        assert sorted(numbers) == list(range(step * WORLD, (step + 1) * WORLD))
        windows = np.concatenate([read for node in nodes for read in node.reads[step]])
        assert np.array_equal(windows, alone.read(numbers))

    blocks = 2 * BLOCK * 2  # of the one lane that a node reads, in bytes, now and next
    for node in nodes:
        tokens = [served for served in node.all if served.path.endswith(".bin")]
        assert len(tokens) == len(set(tokens)) or sum(one.bytes for one in tokens) <= blocks + 3 * PART
        assert node.windows_bytes <= sum(one.bytes for one in tokens) <= blocks + 3 * PART  # which begin within a part
        assert max(one.bytes for one in tokens) == PART
        sums = [served.path for served in node.all if served.path.endswith(".parts")]
        assert len(sums) == len(set(sums)) <= 4
    assert len({node.all[0].path for node in nodes}) > NODES // 2  # nodes do not all begin with the same shard
    assert max(seconds for node in nodes for seconds in node.start_seconds) < 1.0
