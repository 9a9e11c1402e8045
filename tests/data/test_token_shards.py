"""Token shards are Megatron's, and say so when they are damaged."""

import numpy as np
import pytest

from mfa_train.data.token_shards import TokenShard, write_shard
from mfa_train.errors import DataError

DOCUMENTS = [np.array([1, 2, 3]), np.array([4]), np.arange(500)]


@pytest.mark.parametrize("vocab_size", [1000, 100_000])
def test_megatron_core_reads_them_token_for_token(vocab_size, tmp_path):
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    write_shard(tmp_path / "shard", DOCUMENTS, vocab_size)
    theirs = indexed_dataset.IndexedDataset(str(tmp_path / "shard"))
    assert len(theirs) == len(DOCUMENTS)
    assert all(np.array_equal(theirs[index], document) for index, document in enumerate(DOCUMENTS))
    ours = TokenShard(tmp_path / "shard")
    assert np.array_equal(ours.tokens, np.concatenate(DOCUMENTS))


@pytest.mark.parametrize("suffix, keep, named", [("bin", -2, "cut off"), ("idx", 40, "cut off"), ("idx", 5, "MMIDIDX")])
def test_a_truncated_shard_is_named(suffix, keep, named, tmp_path):
    write_shard(tmp_path / "shard", DOCUMENTS, 1000)
    path = tmp_path / f"shard.{suffix}"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=named) as error:
        TokenShard(tmp_path / "shard")
    assert str(path) in str(error.value)
