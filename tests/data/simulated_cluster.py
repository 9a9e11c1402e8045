"""Ranks of many nodes that read one corpus from object storage, in turn: each node has a cache of its own, each rank a
reader of its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mfa_train.config import DataConfig
from mfa_train.data.reading.batches import Batches, Share
from mfa_train.data.shards.cache import ShardCache
from mfa_train.data.shards.file_systems import FileSystems
from mfa_train.data.shards.megatron_form import write_shard
from mfa_train.data.shards.parts import write_parts
from mfa_train.data.shards.shard import Shard
from mfa_train.data.shards.shards import Shards
from mfa_train.data.shards.store import ShardStore, sha256_of
from tests.data.counted_storage import Served

VOCAB = 60_000


class Tokens:
    """What a reader needs of a corpus, without a tokenizer."""

    manifest: ClassVar = {"tokenizer_file": "tokenizer.model"}
    eos_id, sha256 = 0, "a"

    def __init__(self, path: str, shards: list[Shard], cache: ShardCache):
        self.path, self.train, self.tokenizer = path, Shards(ShardStore(path, cache), shards, VOCAB), self

    def identity(self) -> dict:
        return {"tokens": self.train.num_tokens}


def corpora(tokens: Tokens) -> dict[str, Any]:
    """As a reader takes them."""
    return {"a": tokens}


def write_tokens(folder: Path, shards: int, tokens: int, part_bytes: int) -> list[Shard]:
    """Shards of random tokens, with the checksums of their parts."""
    numbers, found = np.random.default_rng(0), []
    for number in range(shards):
        name = f"train-{number:05}"
        write_shard(folder / name, [numbers.integers(0, VOCAB, tokens, dtype=np.uint16)], VOCAB)
        (folder / f"{name}.idx").unlink()
        path = folder / f"{name}.bin"
        found.append(Shard(name, tokens, "uint16", 0, sha256_of(path), write_parts(path, part_bytes)))
    return found


@dataclass
class Node:
    """What was seen of a node."""

    first: list[Served] = field(default_factory=list)
    """Served until all its ranks had their first batch, and what they asked for ahead meanwhile."""
    all: list[Served] = field(default_factory=list)
    """Until all steps were read, and what lies ahead was fetched."""
    windows_bytes: int = 0
    """Of the windows that its ranks read."""
    reads: list[list[np.ndarray]] = field(default_factory=list)
    """Of each step each rank's windows."""
    shares: list[list[np.ndarray]] = field(default_factory=list)
    """And their numbers."""
    start_seconds: list[float] = field(default_factory=list)
    """Of each rank, from shards that are known to the first batch."""


def read_by_node(
    node: int,
    ranks_per_node: int,
    world_size: int,
    steps: int,
    shards: Callable[[ShardCache], Tokens],
    data: DataConfig,
    sequence_length: int,
    batch_size: int,
    served: Callable[[], list[Served]],
    clients: FileSystems,
    ahead: bool = True,
) -> Node:
    """Steps 0 to `steps` of the node's ranks, one rank behind the other, through the same `clients`: of a real rank's
    process they are its own. Without `ahead` what was asked for ahead of the first batch is given up behind it."""
    seen, ranks = Node(), []
    served()
    for local in range(ranks_per_node):
        rank = node * ranks_per_node + local
        cache = ShardCache(f"{data.cache_dir}/{node}", data.cache_bytes)
        cache.file_systems = clients
        corpus = shards(cache)
        begin = time.perf_counter()
        batches = Batches(
            corpora(corpus), data, sequence_length, 1, batch_size, Share(rank, world_size, ranks_per_node)
        )
        batches.of(0)
        seen.start_seconds.append(time.perf_counter() - begin)
        ranks.append(batches)
        if not ahead:
            batches.fetch_ahead.towards([])
            batches.fetch_ahead.idle = True
    seen.first = served()
    for step in range(steps):
        seen.shares.append([one.share(step * batch_size) for one in ranks])
        seen.reads.append([one.of(step * batch_size) for one in ranks])
        seen.windows_bytes += sum(windows.nbytes for windows in seen.reads[-1])
    while any(one.fetch_ahead.running for one in ranks):
        time.sleep(0.002)
    seen.all = seen.first + served()
    return seen


def put(filesystem, folder: Path, url: str) -> None:
    """The shards of `folder` in object storage."""
    filesystem.pipe({f"{url}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())})
