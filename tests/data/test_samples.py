"""One global order of samples: a pure function of corpus, seed and sequence length."""

from pathlib import Path

import numpy as np
import pytest

from mfa_train.data.order import permutation
from mfa_train.data.samples import Samples
from mfa_train.data.token_shards import TokenShards, write_shard
from mfa_train.errors import ConfigError


def shards_of(folder: Path, ends: list[int]) -> TokenShards:
    """Tokens 0, 1, …, 1000 in shards that end at `ends`."""
    prefixes = [folder / f"shard-{number}" for number in range(len(ends) + 1)]
    for prefix, tokens in zip(prefixes, np.split(np.arange(1001), ends)):
        write_shard(prefix, [tokens], 2000)
    return TokenShards(prefixes)


@pytest.fixture
def shard(tmp_path) -> TokenShards:
    return shards_of(tmp_path, [])


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000, 4097])
def test_the_order_is_a_permutation_and_differs_by_seed_and_epoch(n):
    orders = [permutation(np.arange(n), n, seed, epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert all(sorted(order) == list(range(n)) for order in orders)
    if n >= 64:
        assert len({tuple(order) for order in [*orders, np.arange(n)]}) == 4


def test_any_place_of_a_huge_order_is_found_at_once():
    n = 10**12
    assert permutation(np.array([n - 1]), n, 1, 0)[0] < n


def test_an_epoch_trains_on_every_token_once(shard):
    samples = Samples(shard, sequence_length=10, seed=1)
    epochs = samples.batch(np.arange(200))[:, :-1].reshape(2, -1)
    assert all(sorted(epoch) == list(range(1000)) for epoch in epochs)
    assert not np.array_equal(*epochs)


def test_targets_are_the_next_tokens(shard):
    batch = Samples(shard, sequence_length=10, seed=1).batch(np.arange(7))
    assert batch.shape == (7, 11)
    assert np.array_equal(batch[:, 1:], batch[:, :-1] + 1)


def test_a_sample_does_not_depend_on_who_asks_with_what_else(shard):
    whole = Samples(shard, 10, seed=1).batch(np.arange(250))
    alone = np.concatenate([Samples(shard, 10, seed=1).batch(np.array([index])) for index in range(250)])
    assert np.array_equal(whole, alone)


@pytest.mark.parametrize("ends", [[500], [1, 2, 3, 990], [10, 10, 20], list(range(7, 1001, 7))], ids=len)
def test_samples_do_not_depend_on_how_tokens_lie_in_shards(shard, ends, tmp_path):
    (tmp_path / "split").mkdir()
    split = shards_of(tmp_path / "split", ends)
    assert split.num_tokens == 1001
    whole, parts = Samples(shard, 30, seed=1), Samples(split, 30, seed=1)
    assert np.array_equal(whole.batch(np.arange(99)), parts.batch(np.arange(99)))


def test_a_sequence_longer_than_the_data_is_refused(shard):
    with pytest.raises(ConfigError, match="sequence_length=1001 is longer .*=1000 or less"):
        Samples(shard, 1001, seed=1)
