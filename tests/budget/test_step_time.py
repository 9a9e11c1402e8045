"""What a step's time is made of, against the ZeRO paper, vendors' numbers and examples worked by hand."""

import pytest
import torch

from mfa_train import config as configs
from mfa_train.budget.communication import REACHED, ring_speed, traffic
from mfa_train.budget.devices import KNOWN
from mfa_train.budget.plan import make_plan

DEVICES = {device.name: device for device in KNOWN}
H100 = ["cluster.device=h100-80gb", "precision=bf16"]
PARAMS = 10**10
RANKS = 10**9
"""So many that a ring's (W - 1)/W is 1."""


def elements(stage: int, passes: int = 1) -> float:
    """Sent by a rank in a step for each parameter, in float32, where everything is 4 bytes wide."""
    return traffic(((PARAMS, 1),), torch.float32, stage, RANKS, passes) / 4 / PARAMS


def time_of(*overrides: str) -> dict:
    return make_plan(configs.load(overrides))["time"]


@pytest.mark.parametrize("stage, paper, sent", [(0, 2, 2), (1, 2, 3), (2, 2, 3), (3, 3, 3)])
def test_a_step_sends_what_the_zero_paper_says_and_where_deepspeed_all_reduces_a_third_more(stage, paper, sent):
    """arXiv 1910.02054, section 7: 2Ψ elements, at stage 3 3Ψ. DeepSpeed's stages 1 and 2 sum gradients by an
    all-reduce (2Ψ) where the paper scatters them (Ψ); both then gather the parameters (Ψ)."""
    assert elements(stage) == pytest.approx(sent, rel=1e-6) and sent - paper in (0, 1)


def test_accumulating_costs_stages_2_and_3_a_sum_for_each_pass():
    assert [elements(stage, passes=4) for stage in range(4)] == pytest.approx([2, 3, 4 * 2 + 1, 4 * 3], rel=1e-6)


def test_stage_3_gathers_a_model_that_stays_whole_once_a_pass():
    """Of at most 10^9 elements, DeepSpeed's stage3_max_live_parameters."""
    assert traffic(((10**8, 5),), torch.float32, 3, RANKS, 1) == pytest.approx(4 * 2 * 5 * 10**8, rel=1e-6)


@pytest.mark.parametrize(
    "device, link, network", [("a100-80gb", 300, 200), ("h100-80gb", 450, 400), ("b200-180gb", 900, 400)]
)
def test_a_ring_is_as_fast_as_nvlink_in_a_node_and_as_the_nodes_cards_beyond(device, link, network):
    """GB/s one way: NVLink 3, 4, 5 have 600, 900, 1,800 both ways; DGX A100 has eight cards of 200 Gbit/s, DGX H100 and
    B200 of 400."""
    found = DEVICES[device]
    assert ring_speed(found, nodes=1, devices_per_node=8) == pytest.approx(REACHED * link * 1e9)
    assert ring_speed(found, nodes=4, devices_per_node=8) == pytest.approx(REACHED * network * 1e9)
    assert ring_speed(found, 4, 8, network=12.5e9) == pytest.approx(REACHED * 12.5e9)


def test_the_example_of_the_docs():
    """docs/budget.md, by hand: 6.738B parameters, 64 ranks, four passes a step at stage 2."""
    sent = (4 * 2 * 4 + 2) * 6_738_415_616 * 63 / 64
    time = time_of(
        *H100,
        "model=7b",
        "model.vocab_size=32000",
        "attention=mha",
        "cluster.nodes=8",
        "cluster.devices_per_node=8",
        "zero=2",
        "training.batch_size=1024",
        "training.micro_batch_size=4",
        "training.activation_checkpointing=full",
    )
    assert time["communication_bytes"] == pytest.approx(sent, rel=1e-6)
    assert time["communication_seconds"] == time["waiting_seconds"] == pytest.approx(sent / (0.8 * 400e9))
    parts = [time[f"{part}_seconds"] for part in ("computing", "recomputation", "waiting")]
    assert time["step_seconds"] == pytest.approx(sum(parts))
    assert parts == pytest.approx([7.1, 2.32, 0.705], rel=0.01)


@pytest.mark.parametrize("ranks, share_a_node, link", [(16, 16, 450), (16, 8, 400), (2, 1, 50), (3, 2, 50)])
def test_a_run_of_other_ranks_than_the_clusters_is_planned_over_the_nodes_that_it_has(ranks, share_a_node, link):
    """GB/s one way, as above; a node of one rank sends through its one card."""
    config = configs.load(["precision=bf16", "training.batch_size=48", "cluster.nodes=1", "cluster.devices_per_node=8"])
    time = make_plan(config, DEVICES["h100-80gb"], ranks, ranks_per_node=share_a_node)["time"]
    assert time["ring_bytes_per_second"] == pytest.approx(REACHED * link * 1e9)


def test_recomputation_runs_the_layers_once_more():
    """A third of forward and backward; the head, 4% of this model's FLOPs, is not run again."""
    time = time_of(*H100, "model=7b", "model.vocab_size=32000", "training.activation_checkpointing=full")
    assert 0.31 < time["recomputation_seconds"] / time["computing_seconds"] < 1 / 3
    assert not time_of(*H100, "model=7b")["recomputation_seconds"]
    tiled = time_of(*H100, "model=7b", "training.mlp_tile_tokens=1024")
    tokens, per_token = 8 * 4096, 32 * 2 * 3 * 4096 * 11008
    assert tiled["recomputation_seconds"] == pytest.approx(tokens * per_token / (0.4 * 989e12), rel=0.01)


def test_at_stage_3_sending_goes_on_beside_computing():
    typed = [*H100, "model=7b", "cluster.nodes=8", "cluster.devices_per_node=8", "training.batch_size=1024"]
    two, three = (time_of(*typed, "training.micro_batch_size=4", f"zero={stage}") for stage in (2, 3))
    assert two["waiting_seconds"] == two["communication_seconds"] > 0
    assert three["waiting_seconds"] == 0 < three["communication_seconds"] < three["computing_seconds"]


@pytest.mark.parametrize(
    "head_dim, kernel, share", [(256, "flash", 0.4), (264, "math", 0.05)], ids=["as flash takes", "wider"]
)
def test_an_unfused_kernel_is_not_assumed_at_the_share_of_a_fused_one(head_dim, kernel, share):
    """MFA's query heads share one key head, which beyond 256 dimensions no fused kernel takes (docs/attention.md)."""
    time = time_of(*H100, "model=7b", "attention=mfa", f"attention.head_dim={head_dim}")
    assert (time["kernel"], time["kernel_share"]) == (kernel, share)
    assert time["mfu"] == pytest.approx(0.4) if kernel == "flash" else time["mfu"] < 0.3


def test_a_typed_mfu_is_of_the_whole_step():
    time = time_of(
        *H100, "model=7b", "cluster.devices_per_node=8", "plan.mfu=0.3", "training.activation_checkpointing=full"
    )
    assert time["mfu"] == 0.3 and time["recomputation_seconds"] is None


def test_what_ranks_of_unknown_links_send_is_said_to_be_left_out():
    plan = make_plan(configs.load(["cluster.device=cpu", "cluster.devices_per_node=2"]))
    assert plan["time"]["communication_seconds"] is None and plan["time"]["step_seconds"] > 0
    assert any("not in the step's time" in note for note in plan["notes"])


@pytest.mark.parametrize("batch_size, advice", [(64, "a larger training.batch_size"), (128, "zero=1, which")])
def test_stage_1_is_proposed_where_stage_2_sums_gradients_more_than_once(batch_size, advice):
    typed = [
        *H100,
        "model=7b",
        "zero=2",
        "cluster.nodes=8",
        "cluster.devices_per_node=8",
        "training.sequence_length=256",
    ]
    plan = make_plan(configs.load([*typed, f"training.batch_size={batch_size}", "training.micro_batch_size=1"]))
    [note] = [note for note in plan["notes"] if "ranks send each other" in note]
    assert f"each other: {advice}" in note
