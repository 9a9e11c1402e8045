"""Sequences that ranks share: one curve, whatever the layout."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.kills import study
from mfa_train import config as configs
from mfa_train.attention.documents import documents_from
from mfa_train.attention.kernels.causal import causal_attention
from mfa_train.attention.pieces import pieces_from
from mfa_train.errors import ConfigError
from mfa_train.parallel.groups import ContextGroup
from mfa_train.parallel.requirements import require_parallel
from mfa_train.parallel.stretches import local, stretches
from tests.end_to_end.conftest import COMMON
from tests.parallel.conftest import on_ranks


def test_ranks_of_a_sequence_give_what_one_gives_and_receive_entries_alone():
    on_ranks(4, "context_ranks.py", "mfa", "mla")


@pytest.mark.ranks
def test_ranks_of_a_sequence_give_what_one_gives_whatever_the_attention():
    on_ranks(4, "context_ranks.py")


def test_ranks_that_share_sequences_and_experts_train_as_one_process_and_go_on_at_another_layout():
    on_ranks(4, "training_ranks.py", "0x1x2x4", "3x2x1x2", "1x4x2x1")


@pytest.mark.ranks
def test_ranks_that_share_sequences_train_as_one_process_at_every_stage():
    on_ranks(4, "training_ranks.py", "2x1x4x2", "3x1x8x4", "1x2x2x2", "0x1x8x4", "3x1x2x1")
    on_ranks(2, "training_ranks.py", "3x2x8x2", "1x1x4x2", "0x1x4x1")


@pytest.mark.ranks
def test_a_run_whose_ranks_share_sequences_and_of_which_one_is_killed_leaves_the_undisturbed_curve_bit_for_bit(
    prepared_data, tmp_path
):
    typed = [*COMMON, "parallel.context=2", "zero=3", "training.steps=60", f"data_dir={prepared_data}"]
    result = study(1, 4, tmp_path, typed, seed=3)
    assert result == result | {"kills": 1, "each_step_once": True, "equal": True}


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_token_is_one_ranks_and_all_ranks_work_alike(size):
    tokens = 48 * size
    own = [stretches(place, size, tokens) for place in range(size)]
    assert sorted(token for both in own for begin, end in both for token in range(begin, end)) == list(range(tokens))
    scores = [sum(end * (end + 1) - begin * (begin + 1) for begin, end in both) for both in own]
    assert len(set(scores)) == 1
    x = torch.arange(tokens)
    assert all(
        local(x, ContextGroup(place, size), 0).tolist()
        == [token for begin, end in own[place] for token in x[begin:end]]
        for place in range(size)
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 23), max_size=12), st.lists(st.integers(0, 23), max_size=12), st.integers(0, 3))
def test_a_stretchs_pieces_see_their_own_documents_alone(first, second, stretch):
    starts = np.zeros((2, 24), bool)
    starts[0, first], starts[1, second], starts[:, 0] = True, True, True
    begin, end = 6 * stretch, 6 * stretch + 6
    q, k, v = (torch.randn(2, 24, heads, 8, generator=torch.Generator().manual_seed(1)) for heads in (4, 2, 2))
    expected = causal_attention(q, k, v, 0.3, "sdpa", documents_from(starts))[:, begin:end]
    pieces = pieces_from(starts, begin, end)
    found = causal_attention(q[:, begin:end], k[:, :end], v[:, :end], 0.3, "sdpa", pieces)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    packed = pieces.packed(q[:, begin:end], k[:, :end], v[:, :end])  # as flash-attn is given it
    parts = [
        causal_attention(packed.q[None, a:b], packed.k[None, c:d], packed.v[None, c:d], 0.3, "sdpa")[0]
        for a, b, c, d in zip(
            *(packed.cu_seqlens_q, packed.cu_seqlens_q[1:], packed.cu_seqlens_k, packed.cu_seqlens_k[1:])
        )
    ]
    torch.testing.assert_close(torch.cat(parts).view_as(expected), expected, atol=1e-5, rtol=0)
    lengths = [int(x.diff().max()) for x in (packed.cu_seqlens_q, packed.cu_seqlens_k)]
    assert lengths == [packed.max_seqlen_q, packed.max_seqlen_k]


@pytest.mark.parametrize(
    "typed, world_size, message",
    [
        (
            ["parallel.context=4"],
            2,
            "parallel.context=4: there are 2 ranks: type parallel.context=2, or "
            "have 4: start the run with torchrun --nproc-per-node 4; for mfa-train plan and launch type "
            "cluster.devices_per_node=4",
        ),
        (
            ["parallel.context=16", "cluster.devices_per_node=8"],
            8,
            "parallel.context=16: there are 8 ranks: type "
            "parallel.context=8, or have 16: start the run with torchrun --nnodes 2 --nproc-per-node 8; for mfa-train "
            "plan and launch type cluster.nodes=2 cluster.devices_per_node=8",
        ),
        (["parallel.context=4"], 6, "parallel.context=4 does not divide the 6 ranks: type parallel.context=2"),
        (
            ["parallel.context=2", "training.sequence_length=66"],
            2,
            "training.sequence_length=66: parallel.context=2 cuts sequences into 4 equal stretches: type "
            "training.sequence_length=64",
        ),
        (
            ["parallel.context=2", "feed_forward=experts", "model.feed_forward.capacity_factor=2"],
            2,
            "model.feed_forward.capacity_factor=2: with parallel.context=2 no rank sees a whole sequence, of which "
            "an expert takes its share: type model.feed_forward.capacity_factor=null, or parallel.context=1",
        ),
    ],
)
def test_what_cannot_be_shared_is_told_in_one_line(typed, world_size, message):
    with pytest.raises(ConfigError) as error:
        require_parallel(configs.load(typed), world_size)
    assert str(error.value) == message


def test_a_batch_is_counted_in_groups_of_ranks():
    training = configs.load(["training.batch_size=3"]).training
    with pytest.raises(ConfigError, match="=3 is not a multiple of 2 groups of parallel.context=2 ranks; .*=4$"):
        training.micro_batch(2, context=2)
    assert training.micro_batch(1, context=2) == 3
