"""A thousand ranks that read one corpus from S3, simulated in turn: what each node fetches, what a rank's start takes.

1. A corpus of 10,000 shards and a trillion tokens, all zeros: eight ranks of one of 128 nodes, each in a process of its
   own, from the manifest to the first batch of 1,024 windows of 4,096 tokens.
2. 128 nodes of 8 ranks, each node with a cache of its own, read the first steps of a corpus in a real S3 server
   (moto's) on loopback, which counts requests and bytes. Every window is held against what one rank alone reads from
   disk. Then one node reads on through some blocks. Each with shards fetched in parts and whole, with 64 lanes and 128.
   All is small but in the proportions of a large corpus: a part is 32 windows, a block 8 parts, a shard 8 blocks.

The last line is JSON.

    python benchmarks/reading_at_scale.py        [--nodes 128]
"""

import argparse
import dataclasses
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RANKS_PER_NODE, STEPS, ON = 8, 2, 128
SEQUENCE, PART, BLOCK = 256, 2**14, 2**16
"""Tokens of a window, bytes of a part, tokens of a block."""
HUGE_SHARDS, HUGE_TOKENS, HUGE_PART = 10_000, 95 * 2**20, 2**20
VOCAB = 60_000
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Server:
    """In a process of its own."""

    def __init__(self, repeated: dict[str, bytes]):
        command = [sys.executable, "-m", "tests.data.counted_storage"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({ending: part.hex() for ending, part in repeated.items()}) + "\n")
        self.process.stdin.flush()
        self.url = self.process.stdout.readline().strip()
        os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=self.url)

    def served(self) -> list:
        from tests.data.counted_storage import served_by

        return served_by(self.url)


def configured(folder: Path, lanes: int, shuffle_tokens: int):
    from mfa_train import config as configs

    overrides = ["data=prepared", "data.path=s3://scale/corpus", f"data.lanes={lanes}"]
    data = configs.load(overrides).data
    return dataclasses.replace(data, cache_dir=str(folder), shuffle_tokens=shuffle_tokens)


def cluster(nodes: int, folder: Path) -> list[dict]:
    """One row for each way to read it."""
    import fsspec

    from mfa_train.data.reading.batches import Batches
    from mfa_train.data.shards.cache import ShardCache
    from mfa_train.data.shards.file_systems import FileSystems
    from tests.data.simulated_cluster import Tokens, corpora, put, read_by_node, write_tokens

    server, corpus, world = Server({}), folder / "corpus", nodes * RANKS_PER_NODE
    corpus.mkdir()
    shards = write_tokens(corpus, 128, 8 * BLOCK, PART)
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.mkdir("s3://scale")
    put(filesystem, corpus, "s3://scale/corpus")
    clients, rows = FileSystems(), []
    for lanes in (64, 128):
        for form in ("parts", "whole"):
            data = configured(folder / f"cache-{lanes}-{form}", lanes, BLOCK)
            listed = shards if form == "parts" else [dataclasses.replace(shard, parts=None) for shard in shards]
            alone = Batches(corpora(Tokens(str(corpus), shards, ShardCache(folder, 0))), data, SEQUENCE, 1, world)

            def opened(cache: ShardCache, listed=listed) -> Tokens:
                return Tokens("s3://scale/corpus", listed, cache)

            def read(node: int, steps: int, opened=opened, data=data):
                shape = (node, RANKS_PER_NODE, world, steps)
                return read_by_node(*shape, opened, data, SEQUENCE, world, server.served, clients)

            seen = [read(node, STEPS) for node in range(nodes)]
            for step in range(STEPS):
                numbers = np.concatenate([share for node in seen for share in node.shares[step]])
                assert sorted(numbers) == list(range(step * world, (step + 1) * world)), "a sample twice, or never"
                windows = np.concatenate([read for node in seen for read in node.reads[step]])
                assert np.array_equal(windows, alone.read(numbers)), "not what one rank alone reads"
            data.__dict__["cache_dir"] = f"{data.cache_dir}-on"
            on = read(nodes // 2, ON)
            ahead = [sum(one.bytes for one in node.all) for node in seen]
            row = {
                "lanes": lanes,
                "form": form,
                "requests_a_node": statistics.mean(len(node.all) for node in seen),
                "bytes_a_node": max(ahead),
                "corpus_bytes": 2 * sum(shard.tokens for shard in shards),
                "first_objects": len({node.all[0].path for node in seen}),
                "on_fetched": sum(one.bytes for one in on.all),
                "on_windows": on.windows_bytes,
                "start_seconds": statistics.median(seconds for node in seen for seconds in node.start_seconds),
            }
            rows.append(row)
            print(
                f"{nodes} nodes of {RANKS_PER_NODE} ranks, {lanes} lanes, shards {form}: at most "
                f"{row['bytes_a_node'] / 1e6:.2f} of {row['corpus_bytes'] / 1e6:.0f} MB a node in "
                f"{row['requests_a_node']:.0f} requests, {row['first_objects']} objects asked for first; one node "
                f"through {ON} steps: {row['on_fetched'] / row['on_windows']:.2f} times its windows' bytes",
                flush=True,
            )
    server.process.kill()
    return rows


def huge(nodes: int, folder: Path) -> dict:
    """Eight ranks of a node, each in a process of its own."""
    import fsspec

    zeros = hashlib.sha256(bytes(HUGE_PART)).digest()
    count = 2 * HUGE_TOKENS // HUGE_PART
    parts = {"bytes": HUGE_PART, "sha256": hashlib.sha256(zeros * count).hexdigest()}
    sha256 = "0" * 64
    entry = {"tokens": HUGE_TOKENS, "dtype": "uint16", "sha256": {"bin": sha256, "idx": sha256}, "parts": parts}
    entries = [{"name": f"train-{number:05}", **entry} for number in range(HUGE_SHARDS)]
    manifest = {
        "format": 3,
        "tokenizer_file": "tokenizer.model",
        "tokenizer_sha256": sha256,
        "eos_token": None,
        "splits": {"train": {"shards": entries}, "held_out": {"shards": []}},
    }
    server = Server({".bin": bytes(HUGE_PART), ".parts": zeros})
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.mkdir("s3://scale")
    content = json.dumps(manifest, indent=2).encode()
    filesystem.pipe("s3://scale/corpus/manifest.json", content)
    ranks = []
    server.served()
    for local in range(RANKS_PER_NODE):
        rank = nodes // 2 * RANKS_PER_NODE + local
        command = [sys.executable, __file__, "--rank", str(rank), "--nodes", str(nodes), "--folder", str(folder)]
        told = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
        served = server.served()
        told = json.loads(told.splitlines()[-1])
        told["served"] = {
            kind: sum(one.bytes for one in served if one.path.endswith(kind)) for kind in ("bin", "parts", "json")
        }
        ranks.append(told)
        print(f"  rank {rank}: " + ", ".join(f"{key} {value}" for key, value in told.items()), flush=True)
    server.process.kill()
    return {"manifest_bytes": len(content), "ranks": ranks}


def one_rank(rank: int, nodes: int, folder: Path) -> dict:
    """What a rank of a node does from the manifest on."""
    import_module("s3fs")  # which takes a second, as torch has taken some before

    from mfa_train.data.manifest import read_manifest
    from mfa_train.data.reading.batches import Batches, Share
    from mfa_train.data.shards.cache import ShardCache
    from mfa_train.data.shards.shard import Shard
    from tests.data.simulated_cluster import Tokens, corpora

    world = nodes * RANKS_PER_NODE
    data = configured(folder / "huge", 64, 2**24)
    cache = ShardCache(data.cache_dir, data.cache_bytes)
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}

    def timed(name: str, action):
        begin, spent = time.perf_counter(), time.process_time()
        result = action()
        seconds[name], cpu[name] = time.perf_counter() - begin, time.process_time() - spent
        return result

    manifest = timed("manifest", lambda: read_manifest("s3://scale/corpus", cache))
    entries = manifest["splits"]["train"]["shards"]
    corpus = timed("shards", lambda: Tokens("s3://scale/corpus", [Shard.of(entry) for entry in entries], cache))
    share = Share(rank, world, RANKS_PER_NODE)
    before = private_bytes()
    batches = timed("reader", lambda: Batches(corpora(corpus), data, 4096, 1, world, share))
    windows = timed("first batch", lambda: batches.of(0))
    after = private_bytes()
    batches.fetch_ahead.towards([])
    batches.fetch_ahead.idle = True
    begin = time.process_time()
    for step in range(1, 257):
        batches.ahead.wanted(step * world, rank)
    looked = (time.process_time() - begin) / 256
    return {
        "start_seconds": round(seconds["reader"] + seconds["first batch"], 3),
        "start_cpu_seconds": round(cpu["reader"] + cpu["first batch"], 3),
        "cpu_seconds": {name: round(value, 3) for name, value in cpu.items()},
        "looking_ahead_milliseconds_a_step": round(1e3 * looked, 2),
        "windows_bytes": windows.nbytes,
        "reader_private_bytes": after - before,
    }


def private_bytes() -> int:
    """Memory of this process that is no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--rank", type=int, help="one rank of the large corpus: what the command starts itself")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        print(json.dumps(one_rank(arguments.rank, arguments.nodes, arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        print(f"{HUGE_SHARDS:,} shards of {HUGE_TOKENS:,} tokens", flush=True)
        large = huge(arguments.nodes, Path(name))
        print(json.dumps({"cluster": cluster(arguments.nodes, Path(name)), "large": large}))


if __name__ == "__main__":
    main()
