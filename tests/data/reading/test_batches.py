"""The batches of a run: one sequence of samples, whoever computes them, from wherever it goes on."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfa_train import config as configs
from mfa_train.data.reading.batches import Batches, Share
from mfa_train.errors import ConfigError
from tests.data.reading.test_samples import shards_of

DATA = configs.load(["data=mixture", "data.shuffle_tokens=100"]).data


class Prepared:
    """What Batches reads of a corpus: tokens first, first + 1, … in shards of such lengths."""

    manifest: ClassVar = {"tokenizer_file": "tokenizer.model"}
    eos_id = 0

    def __init__(self, folder, lengths, tokenizer="a"):
        self.path, self.train, self.tokenizer = folder, shards_of(folder, lengths), self
        self.sha256 = tokenizer

    def identity(self):
        return {"tokens": self.train.num_tokens, "shards": self.train.tokens.tolist()}


def batches(corpora, batch_size, rank=0, ranks=1, weights=None, sequence_length=8, lanes=4):
    data = dataclasses.replace(
        DATA, lanes=lanes, weights=weights or {name: 1 + place for place, name in enumerate(corpora)}
    )
    return Batches(corpora, data, sequence_length, 1, batch_size, Share(rank, ranks))


@given(
    layouts=st.lists(st.lists(st.integers(5, 90), min_size=1, max_size=5), min_size=1, max_size=3),
    ranks=st.integers(1, 64),
    per_rank=st.integers(1, 4),
    lanes=st.integers(1, 9),
    resumed=st.integers(0, 4),
    then=st.integers(1, 64),
)
@settings(max_examples=20, deadline=None)
def test_ranks_and_restarts_read_the_reference_order(tmp_path_factory, layouts, ranks, per_rank, lanes, resumed, then):
    folder = tmp_path_factory.mktemp("corpora")
    corpora = {f"c{number}": Prepared(folder / str(number), [9, *lengths]) for number, lengths in enumerate(layouts)}
    batch_size = per_rank * ranks
    alone = batches(corpora, batch_size, lanes=lanes)
    # Stopped after `resumed` steps, and gone on by as many processes as divide the batch.
    then = max(count for count in range(1, then + 1) if batch_size % count == 0)
    for processes, steps in ((ranks, range(resumed)), (then, range(resumed, resumed + 2))):
        together = [batches(corpora, batch_size, rank, processes, lanes=lanes) for rank in range(processes)]
        for step in steps:
            reference = alone.read(np.arange(step * batch_size, (step + 1) * batch_size))
            parts = np.concatenate([one.of(step * batch_size) for one in together])
            assert sorted(map(tuple, parts)) == sorted(map(tuple, reference))


def test_counters_tell_what_was_read(tmp_path):
    corpora = {"a": Prepared(tmp_path / "a", [500]), "b": Prepared(tmp_path / "b", [200, 300])}
    told = batches(corpora, 10, weights={"a": 1, "b": 3}).progress(200)
    assert told == {"data/tokens/a": 400, "data/epochs/a": 0.8, "data/tokens/b": 1200, "data/epochs/b": 2.4}


def test_ranks_keep_to_their_lanes(tmp_path):
    corpora = {"a": Prepared(tmp_path, [2000])}
    for rank in range(2):
        own = batches(corpora, 8, rank, 2)
        lanes = own.samples[0].order.lane(np.concatenate([own.share(8 * step) for step in range(20)]))
        assert set(lanes.tolist()) == {2 * rank, 2 * rank + 1}


def test_the_identity_changes_with_all_that_the_order_depends_on(tmp_path):
    one, other = Prepared(tmp_path / "a", [500]), Prepared(tmp_path / "b", [200, 300])
    same = batches({"x": one}, 10).fingerprint
    assert same == batches({"another name": one}, 20, 1, 2).fingerprint
    assert (
        len(
            {
                same,
                batches({"x": other}, 10).fingerprint,
                batches({"x": one}, 10, sequence_length=9).fingerprint,
                batches({"x": one}, 10, lanes=5).fingerprint,
                batches({"x": one, "y": other}, 10).fingerprint,
            }
        )
        == 5
    )


def test_corpora_of_several_tokenizers_are_refused(tmp_path):
    corpora = {"a": Prepared(tmp_path / "a", [500]), "b": Prepared(tmp_path / "b", [500], tokenizer="b")}
    with pytest.raises(
        ConfigError, match="data.corpora.b: .* another tokenizer than .*; prepare it with data.tokenizer="
    ):
        batches(corpora, 10)


def far(folder, lengths) -> Prepared:
    """A corpus whose shards lie behind a URL."""
    corpus = Prepared(folder, lengths)
    corpus.train.store.folder = "memory://nowhere"
    return corpus


@pytest.mark.parametrize("weight", [0.01, 0.0001])
def test_of_a_corpus_with_a_small_share_all_lanes_are_fetched_ahead_and_have_room(weight, tmp_path):
    corpora = {"much": far(tmp_path / "much", [50] * 8), "rare": far(tmp_path / "rare", [100] * 64)}
    data = dataclasses.replace(DATA, lanes=64, weights={"much": 1 - weight, "rare": weight})
    for ranks in (1, 4):
        fetched = set()
        for rank in range(ranks):
            wanted = Batches(corpora, data, 8, 1, 64, Share(rank, ranks)).ahead.wanted(0, rank)
            fetched |= {shard for source, shard in wanted if source == 1}
        assert fetched == set(range(64))
    with pytest.raises(ConfigError, match="data.cache_bytes=13000: .* have 13600 bytes; type data.cache_bytes=27200"):
        Batches(corpora, dataclasses.replace(data, cache_bytes=13000), 8, 1, 64)


@pytest.mark.parametrize("lengths, advice", [([50] * 64, ", or data.lanes=16"), ([3200], "")])
def test_fewer_lanes_are_proposed_where_they_need_less_room(lengths, advice, tmp_path):
    """Of one shard that is fetched whole they don't."""
    data = dataclasses.replace(DATA, lanes=64, weights={"far": 1})
    corpora = {"far": far(tmp_path, lengths)}
    with pytest.raises(ConfigError, match=f"bytes; type data.cache_bytes=[0-9]+{advice}$") as error:
        Batches(corpora, dataclasses.replace(data, cache_bytes=5000), 8, 1, 64)
    if advice:
        Batches(corpora, dataclasses.replace(data, cache_bytes=5000, lanes=16), 8, 1, 64)
    assert ("lanes" in str(error.value)) == bool(advice)


def test_a_node_needs_room_for_its_own_lanes_alone(tmp_path):
    corpora = {"a": far(tmp_path, [100] * 64)}
    data = dataclasses.replace(DATA, lanes=64, shuffle_tokens=40, weights={"a": 1})
    whole, quarter = (Batches(corpora, data, 8, 1, 64, Share(0, ranks)).ahead.room(ranks) for ranks in (1, 4))
    assert whole == 64 * 200 and quarter <= 18 * 200


def test_what_was_wanted_is_looked_up_again_in_time(tmp_path):
    """A rank reads no shard that it was not told of before."""
    corpora = {"a": far(tmp_path / "a", [97] * 40), "b": far(tmp_path / "b", [97] * 10)}
    data = dataclasses.replace(DATA, lanes=4, shuffle_tokens=200, weights={"a": 9, "b": 1})
    for rank in range(2):
        own, told = Batches(corpora, data, 8, 1, 8, Share(rank, 2)), set()
        for first in range(0, 1600, 8):
            if (wanted := own.ahead.wanted(first, rank)) is not None:
                told = set(wanted)
            corpus, number = own.mixture.place(own.share(first))
            for source, samples in enumerate(own.samples):
                place = samples.order.place(number[corpus == source])
                for epoch, start in zip(place.epoch.tolist(), place.start.tolist()):
                    assert {(source, shard) for shard in samples.run(epoch).shards_between(start, start + 1)} <= told


@pytest.mark.parametrize("lanes, shuffle_tokens", [(2**16, 100), (2**16, 2**60), (4, 2**60)])
def test_more_lanes_or_larger_blocks_than_tokens_are_as_many_as_there_are(lanes, shuffle_tokens, tmp_path):
    for corpus in (Prepared(tmp_path / "here", [500, 300]), far(tmp_path / "there", [500, 300])):
        one, most = (
            Batches(
                {"a": corpus}, dataclasses.replace(DATA, lanes=few, shuffle_tokens=small, weights={"a": 1}), 8, 1, 4
            )
            for few, small in ((lanes, shuffle_tokens), (min(lanes, 800), min(shuffle_tokens, 800)))
        )
        assert np.array_equal(
            one.samples[0].order.place(np.arange(200)).start, most.samples[0].order.place(np.arange(200)).start
        )
        assert one.ahead.wanted(0, 0)
