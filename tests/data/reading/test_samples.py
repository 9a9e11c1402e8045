"""One corpus's order of samples: a pure function of shards, seed, sequence length and shuffling."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfa_train.data.reading.samples import Samples
from mfa_train.data.reading.shuffle import Shuffle
from mfa_train.data.shards.cache import ShardCache
from mfa_train.data.shards.megatron_form import write_shard
from mfa_train.data.shards.shard import Shard
from mfa_train.data.shards.shards import Shards
from mfa_train.data.shards.store import ShardStore
from mfa_train.errors import ConfigError, DataError


def shards_of(folder: Path, lengths: list[int], vocab_size: int = 60_000) -> Shards:
    """Tokens 0, 1, 2, … in shards of such lengths, each a document."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = np.arange(sum(lengths))
    for number, part in enumerate(np.split(tokens, np.cumsum(lengths)[:-1])):
        write_shard(folder / f"train-{number:05}", [part], vocab_size)
    entries = [Shard(f"train-{number:05}", length, "uint16") for number, length in enumerate(lengths)]
    return Shards(ShardStore(folder, ShardCache(folder / "cache", 0)), entries, vocab_size)


@pytest.fixture
def shards(tmp_path) -> Shards:
    return shards_of(tmp_path, [300, 1, 450, 249])


@given(st.integers(1, 5000), st.integers(0, 2**63), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_the_order_is_a_permutation(n, seed, epoch):
    assert sorted(Shuffle(seed, "x")(np.arange(n), n, epoch)) == list(range(n))


def test_orders_differ_by_seed_purpose_epoch_and_place():
    orders = [
        Shuffle(seed, what)(np.arange(64), 64, epoch, place)
        for seed in (1, 2)
        for what in "ab"
        for epoch in (0, 1)
        for place in (0, 1)
    ]
    assert len({tuple(order) for order in [*orders, np.arange(64)]}) == 17


def test_any_place_of_a_huge_order_is_found_at_once():
    n = 10**12
    assert Shuffle(1, "x")(np.array([n - 1]), n)[0] < n


@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=8),
    st.integers(1, 30),
    st.integers(1, 9),
    st.integers(1, 200),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_token_of_an_epoch_is_an_input_exactly_once(
    tmp_path_factory, lengths, sequence_length, lanes, shuffle, seed
):
    n = sum(lengths)
    if n <= sequence_length:
        return
    samples = Samples(shards_of(tmp_path_factory.mktemp("shards"), lengths), sequence_length, seed, lanes, shuffle)
    ends = [-(-epoch * n // sequence_length) for epoch in range(4)]  # samples that begin before an epoch's end
    place = samples.order.place(np.arange(ends[-1]))
    covered = np.sort((place.epoch * n + place.start)[:, None] + np.arange(sequence_length), axis=None)
    assert np.array_equal(covered, np.arange(ends[-1] * sequence_length))
    for epoch in range(3):
        assert (place.epoch[ends[epoch] : ends[epoch + 1]] == epoch).all()
        inputs = samples.batch(np.arange(ends[epoch], ends[epoch + 1]))[:, :-1]
        run = place.start[ends[epoch] : ends[epoch + 1], None] + np.arange(sequence_length)
        assert sorted(inputs[run < n]) == sorted(set(inputs[run < n]))


def test_windows_hold_the_tokens_of_whole_shards_behind_each_other(shards):
    inputs = Samples(shards, 10, seed=1).batch(np.arange(100))
    steps = np.diff(inputs)
    begins = {0, 300, 301, 751}
    assert all(inputs[row, column + 1] in begins for row, column in np.argwhere(steps != 1))
    assert np.count_nonzero(steps != 1) <= 4


def test_the_next_epoch_is_shuffled_anew(shards):
    first, second = (Samples(shards, 10, seed=1).batch(np.arange(start, start + 100)) for start in (0, 100))
    assert np.array_equal(np.sort(first[:, :-1], axis=None), np.sort(second[:, :-1], axis=None))
    assert not np.array_equal(first, second)


def test_a_sample_does_not_depend_on_who_asks_with_what_else(shards):
    whole = Samples(shards, 10, seed=1).batch(np.arange(250))
    alone = np.concatenate([Samples(shards, 10, seed=1).batch(np.array([index])) for index in range(250)])
    assert np.array_equal(whole, alone)


def test_a_batch_draws_from_all_over_the_corpus(tmp_path):
    samples = Samples(shards_of(tmp_path, [1000] * 20), 10, seed=1, lanes=8, shuffle_tokens=500)
    starts = samples.batch(np.arange(1600))[:, 0].reshape(-1, 16)  # of 16 samples
    assert (
        starts.mean(axis=1).std() < 0.5 * 20_000 / 12**0.5 / 4**0.5
    ).all()  # as 16 draws at random would be, or closer
    assert (np.ptp(starts, axis=1) > 8_000).all()


def test_what_is_read_ahead_is_what_will_be_read(tmp_path):
    samples = Samples(shards_of(tmp_path, [97] * 40), 10, seed=3, lanes=4, shuffle_tokens=60)
    for index in range(0, 900, 4):
        ahead = samples.parts_ahead(np.arange(index, index + 8))  # all lanes, also where a round of them is cut short
        for later in range(index, index + 12):
            place = samples.order.place(np.array([later]))
            start = int(place.start[0])
            assert set(samples.run(int(place.epoch[0])).shards_between(start, start + 1)) <= set(ahead)


def test_a_sequence_longer_than_the_data_is_refused(shards):
    with pytest.raises(ConfigError, match="sequence_length=1000 is longer .*=999 or less"):
        Samples(shards, 1000, seed=1)


def test_a_token_that_the_tokenizer_does_not_have_is_named(tmp_path):
    shards = shards_of(tmp_path, [100, 100])
    shards.vocab_size = 150
    with pytest.raises(DataError, match="train-00001.bin: holds token 1[5-9][0-9], and its tokenizer has 150"):
        Samples(shards, 10, seed=1).batch(np.arange(20))


def test_any_step_of_a_trillion_tokens_is_found_in_no_time(tmp_path):
    tokens, count = 250_000_000, 4000
    for number in range(count):
        with open(tmp_path / f"train-{number:05}.bin", "wb") as file:
            file.truncate(2 * tokens)  # a hole: no room on the disk
    import time
    import tracemalloc

    tracemalloc.start()
    start = time.perf_counter()
    shards = Shards(
        ShardStore(tmp_path, ShardCache(tmp_path, 0)),
        [Shard(f"train-{number:05}", tokens, "uint16") for number in range(count)],
        60_000,
    )
    samples = Samples(shards, 2048, seed=1)
    assert samples.batch(np.arange(3 * 10**8, 3 * 10**8 + 512)).shape == (512, 2049)
    assert time.perf_counter() - start < 1.0
    assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    tracemalloc.stop()
