"""Token shards are Megatron's."""

import numpy as np
import pytest

from mfa_train.data.shards.cache import ShardCache
from mfa_train.data.shards.megatron_form import write_shard
from mfa_train.data.shards.megatron_index import MegatronIndex
from mfa_train.data.shards.shard import Shard
from mfa_train.data.shards.shards import Shards
from mfa_train.data.shards.store import ShardStore
from mfa_train.errors import DataError

DOCUMENTS = [np.array([1, 2, 3]), np.array([4]), np.arange(500)]


@pytest.mark.parametrize("vocab_size, dtype", [(1000, "uint16"), (100_000, "int32")])
def test_megatron_core_reads_them_token_for_token(vocab_size, dtype, tmp_path):
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    write_shard(tmp_path / "shard", DOCUMENTS, vocab_size)
    theirs = indexed_dataset.IndexedDataset(str(tmp_path / "shard"))
    assert len(theirs) == len(DOCUMENTS)
    assert all(np.array_equal(theirs[index], document) for index, document in enumerate(DOCUMENTS))
    index = MegatronIndex("shard.idx", (tmp_path / "shard.idx").read_bytes())
    assert index.ends.tolist() == [3, 4, 504] and index.dtype == dtype
    ours = Shards(ShardStore(tmp_path, ShardCache(tmp_path, 0)), [Shard("shard", 504, dtype)], vocab_size)
    assert np.array_equal(ours.read(0, 504), np.concatenate(DOCUMENTS))


def test_a_shard_that_was_cut_off_meanwhile_is_named(tmp_path):
    write_shard(tmp_path / "shard", DOCUMENTS, 1000)
    shards = Shards(ShardStore(tmp_path, ShardCache(tmp_path, 0)), [Shard("shard", 504, "uint16")], 1000)
    shards.read(0, 504)
    with open(tmp_path / "shard.bin", "r+b") as file:
        file.truncate(800)
    with pytest.raises(DataError, match="shard.bin: 800 bytes, where the manifest tells of 1008"):
        shards.read(300, 504)
