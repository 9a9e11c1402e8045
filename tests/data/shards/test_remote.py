"""Corpora in object storage read as those on disk, through a bounded cache and whatever goes wrong on the way."""

from pathlib import Path

import fsspec
import numpy as np
import pytest

from mfa_train import config as configs
from mfa_train.data.corpora import open_all
from mfa_train.data.manifest import read_manifest
from mfa_train.data.preparing.prepare import prepare
from mfa_train.data.reading.batches import Batches, Share
from mfa_train.data.shards import cache as shard_cache
from mfa_train.data.shards.cache import ShardCache
from mfa_train.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A corpus of some twenty shards on disk."""
    folder = tmp_path_factory.mktemp("corpus")
    numbers = np.random.default_rng(0)
    for number in range(60):
        words = [
            f"{word:b}".replace("0", "a").replace("1", "e") + chr(98 + word % 20)
            for word in numbers.zipf(1.3, 3000) % 5000
        ]
        (folder / f"{number:02}.txt").write_text(" ".join(words))
    data = configs.load(
        [
            "data=files",
            f"data_dir={folder}",
            f"data.files=['{folder}/*.txt']",
            "data.vocab_size=512",
            "data.shard_bytes=20000",
            "data.tokenizer_bytes=60000",
            "data.held_out_fraction=0.1",
        ]
    ).data
    prepare(data, lambda message: None)
    return Path(data.path)


@pytest.fixture
def remote(object_storage, local, monkeypatch):
    """The URL of the same corpus in object storage; faults come soon after each other."""
    for key, value in object_storage.environment().items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(shard_cache, "FIRST_PAUSE_SECONDS", 0.01)
    filesystem = fsspec.filesystem("s3")
    if not filesystem.exists("s3://corpora"):
        filesystem.mkdir("s3://corpora")
        filesystem.put(str(local), "s3://corpora/text", recursive=True)
    yield "s3://corpora/text"
    object_storage.faults.clear()


def batches(path, cache_dir: Path, *overrides: str, rank: int = 0, ranks: int = 1) -> Batches:
    data = configs.load(
        [
            "data=prepared",
            f"data.path={path}",
            f"data.cache_dir={cache_dir}",
            "data.lanes=4",
            "data.shuffle_tokens=2000",
            *overrides,
        ]
    ).data
    return Batches(open_all(data), data, 32, 1, 16, Share(rank, ranks))


def test_faults_on_the_way_change_nothing(remote, local, object_storage, tmp_path):
    reference, far = batches(local, tmp_path), batches(remote, tmp_path / "cache")
    object_storage.faults[:] = ["500", "reset", "slow", None, "500", "500", None, "reset"] * 3
    steps = -(-reference.samples[0].shards.num_tokens // (32 * 16))
    for step in range(steps + 20):  # into the second epoch
        assert np.array_equal(far.of(16 * step), reference.of(16 * step))
    assert not object_storage.faults


def test_the_cache_stays_within_its_bounds_and_evicts_what_was_used_longest_ago(remote, local, tmp_path):
    size = max(path.stat().st_size for path in local.glob("train-*.bin"))
    capacity, lanes = 8 * size, "data.lanes=2"  # two lanes, up to two shards each in their blocks now and next
    reference = batches(local, tmp_path, lanes)
    far = batches(remote, tmp_path / "cache", lanes, f"data.cache_bytes={capacity}")
    total = sum(path.stat().st_size for path in local.glob("train-*.bin"))
    assert total > 1.5 * capacity
    for step in range(2 * -(-reference.samples[0].shards.num_tokens // (32 * 16))):
        assert np.array_equal(far.of(16 * step), reference.of(16 * step))
        assert sum(stat.st_size for _, stat in shard_cache._files(tmp_path / "cache")) <= capacity


def test_a_node_fetches_little_more_than_its_share(remote, local, tmp_path):
    total = sum(path.stat().st_size for path in local.glob("train-*.bin"))
    steps = batches(local, tmp_path).samples[0].shards.num_tokens // (32 * 16)
    fetched = []
    for rank in range(4):
        node = batches(remote, tmp_path / f"cache{rank}", rank=rank, ranks=4)
        for step in range(steps):
            node.read(node.share(16 * step))
        fetched.append(
            sum(stat.st_size for path, stat in shard_cache._files(tmp_path / f"cache{rank}") if stat.st_size > 5000)
        )
    shard = max(path.stat().st_size for path in local.glob("train-*.bin"))
    assert all(size <= total / 4 + 3 * shard for size in fetched)  # a lane may begin and end inside a shard


def test_a_shard_that_is_damaged_there_is_fetched_again_and_then_named(remote, local, object_storage, tmp_path):
    filesystem = fsspec.filesystem("s3")
    name = "train-00003.bin"
    content = (local / name).read_bytes()
    filesystem.pipe(f"{remote}/{name}", content[:100] + bytes([content[100] ^ 1]) + content[101:])
    object_storage.gets.clear()
    far = batches(remote, tmp_path / "cache")
    try:
        with pytest.raises(DataError, match=f"{name}: damaged \\(fetched twice"):
            for step in range(500):
                far.read(far.share(16 * step))
    finally:
        filesystem.pipe(f"{remote}/{name}", content)
    assert object_storage.gets.count(f"/corpora/text/{name}") == 2


@pytest.mark.parametrize(
    "fault, told", [("500", "in 3 attempts"), ("hang", "nothing came for 1 seconds"), ("403", "access denied")]
)
def test_a_bucket_that_fails_for_good_is_named_and_no_secret_is(
    fault, told, remote, object_storage, tmp_path, monkeypatch
):
    monkeypatch.setattr(shard_cache, "ATTEMPTS", 3 if fault == "500" else 2)
    monkeypatch.setattr(shard_cache, "STALL_SECONDS", 1.0)
    far = batches(remote, tmp_path / "cache")
    object_storage.faults[:] = [fault] * 100
    with pytest.raises(DataError, match=told) as error:
        far.read(far.share(0))
    assert "s3://corpora/text/train-" in str(error.value)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_faults_while_a_manifest_is_read_are_waited_out(remote, local, object_storage, tmp_path):
    object_storage.faults[:] = ["500", "reset", "slow", "500"]
    assert read_manifest(remote, ShardCache(tmp_path / "cache", 10**6)) == read_manifest(local)
    object_storage.faults[:] = ["403"] * 100
    with pytest.raises(DataError, match="manifest.json: access denied"):
        read_manifest(remote, ShardCache(tmp_path / "cache", 10**6))
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_a_cache_that_is_too_small_is_refused_before_the_first_step(remote, tmp_path):
    with pytest.raises(ConfigError, match=r"data.cache_bytes=1000: .* bytes; type data.cache_bytes=\d+"):
        batches(remote, tmp_path / "cache", "data.cache_bytes=1000")


def test_no_corpus_there_is_told(remote, tmp_path):
    with pytest.raises(DataError, match="s3://corpora/nothing: no prepared corpus here"):
        batches("s3://corpora/nothing", tmp_path / "cache")


@pytest.mark.parametrize("fault, told", [(None, "no such bucket"), ("403", "access denied")])
def test_a_bucket_that_is_not_there_or_not_open_is_refused_at_once(
    fault, told, remote, object_storage, tmp_path, monkeypatch
):
    monkeypatch.setattr(shard_cache, "FIRST_PAUSE_SECONDS", 1e9)  # nothing is tried again
    object_storage.faults[:] = [fault] * 9
    path = remote if fault else "s3://nobucket/text"
    with pytest.raises(ConfigError, match=f"^data.path={path}: manifest.json: {told}") as error:
        batches(path, tmp_path / "cache")
    assert "\n" not in str(error.value) and not error.value.everywhere
