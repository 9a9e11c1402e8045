"""Experts that ranks share out: one curve, whatever the layout."""

import pytest

from benchmarks.kills import study
from mfa_train import config as configs
from mfa_train.errors import ConfigError, TrainingError
from mfa_train.parallel.groups import ExpertGroup, consecutive, same_experts
from mfa_train.parallel.requirements import require_parallel
from mfa_train.training.steps.engine import import_deepspeed
from mfa_train.training.steps.expert_parallel import require_known_deepspeed
from tests.end_to_end.conftest import COMMON
from tests.parallel.conftest import on_ranks

SHARED = ["feed_forward=experts", "model.feed_forward.n_routed_experts=8", "parallel.experts=2"]


def test_four_ranks_that_share_experts_out_train_as_one_process_and_go_on_at_another_layout():
    on_ranks(4, "training_ranks.py", "0x4", "3x2x1", "1x2")


@pytest.mark.ranks
@pytest.mark.parametrize("processes, layouts", [(4, "2x4x1 1x4 3x1 2x2 0x2x1 3x4"), (2, "1x2x2 0x2 3x2x1 2x2 1x1")])
def test_experts_go_on_from_any_layout_to_any_other(processes, layouts):
    on_ranks(processes, "training_ranks.py", *layouts.split())


@pytest.mark.ranks
def test_a_run_whose_ranks_share_experts_out_and_is_killed_leaves_the_undisturbed_curve_bit_for_bit(
    prepared_data, tmp_path
):
    typed = [*COMMON, *SHARED, "zero=3", "training.steps=60", f"data_dir={prepared_data}"]
    result = study(1, 4, tmp_path, typed, seed=3)
    assert result == result | {"kills": 1, "each_step_once": True, "equal": True}


def test_a_deepspeed_without_the_names_that_experts_rest_on_is_told_in_one_line(monkeypatch, tmp_path):
    import_deepspeed()
    from deepspeed.runtime.zero import stage3

    require_known_deepspeed()
    (other := tmp_path / "stage3.py").write_text("class DeepSpeedZeroOptimizer_Stage3: ...\n")
    monkeypatch.setattr(stage3, "__file__", str(other))
    with pytest.raises(TrainingError, match="(?s)^parallel.experts: DeepSpeed [^\n]* or type parallel.experts=1$"):
        require_known_deepspeed()


def test_expert_groups_are_consecutive_ranks_and_every_rank_is_in_one_of_each_kind():
    assert consecutive(4, 2) == [[0, 1], [2, 3]] and same_experts(4, 2) == [[0, 2], [1, 3]]
    for world_size, experts in ((8, 1), (8, 2), (8, 8), (6, 3)):
        for groups in (consecutive(world_size, experts), same_experts(world_size, experts)):
            assert sorted(rank for group in groups for rank in group) == list(range(world_size))
        first = [ExpertGroup(place, experts).first_of(24) for place in range(experts)]
        assert first == list(range(0, 24, 24 // experts))


NODE = "+deepspeed.zero_optimization"
REFUSED = [
    (1, "parallel.experts=2", "there is 1 rank: type parallel.experts=1"),
    (
        4,
        "parallel.experts=8",
        "are 4 ranks: type parallel.experts=4, or .*--nproc-per-node 8; .*devices_per_node=8",
    ),
    (6, "parallel.experts=4", "does not divide the 6 ranks: type parallel.experts=2"),
    (12, "parallel.experts=12", "does not divide model.feed_forward.n_routed_experts=16: type parallel.experts=4"),
    (4, "parallel.experts=2 feed_forward=dense", "no experts to share out: type parallel.experts=1"),
    (4, "parallel.experts=2 model.feed_forward.first_k_dense_replace=99", "no experts to share out"),
    *(
        (4, f"parallel.experts=2 zero={zero} {NODE}.{key}", f"deepspeed.zero_optimization.{key}: .*leave it out, or")
        for zero, key in [
            (1, "contiguous_gradients=false"),
            (2, "contiguous_gradients=false"),
            (1, "reduce_scatter=false"),
            (2, "reduce_scatter=0"),
            (3, "zero_hpz_partition_size=2"),
            (3, "zero_quantized_gradients=true"),
            (3, "zero_quantized_weights=true"),
        ]
    ),
]


@pytest.mark.parametrize("world_size, typed, told", REFUSED)
def test_what_ranks_cannot_share_out_is_refused_before_the_start(world_size, typed, told):
    with pytest.raises(ConfigError, match=told):
        require_parallel(configs.load(["feed_forward=experts", *typed.split()]), world_size)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_what_changes_nothing_may_stand_beside_shared_experts(zero):
    typed = ["feed_forward=experts", "parallel.experts=4", f"zero={zero}", f"{NODE}.overlap_comm=true"]
    require_parallel(configs.load(typed), 8)
    require_parallel(configs.load(["zero=3", f"{NODE}.zero_hpz_partition_size=2"]), 8)
