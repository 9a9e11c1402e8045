"""What sharing sequences is said to cost: bytes by hand, seconds by the device table, memory by a step that runs."""

import pytest
import torch

from mfa_train import config as configs
from mfa_train.budget.context import chosen_way, received
from mfa_train.budget.plan import make_plan, notes_of_config
from mfa_train.budget.shape import Shape, measure
from mfa_train.errors import ConfigError

T = 131_072
SEVEN = ["model=7b", f"training.sequence_length={T}", "cluster.device=h100-80gb", "cluster.devices_per_node=8"]


def plan_of(*overrides: str) -> dict:
    return make_plan(configs.load([*SEVEN, *overrides]))


def shape_of(attention: str) -> Shape:
    config = configs.load(["model=7b", f"attention={attention}"])
    return measure(config.model, config.attention)


def test_entries_and_heads_of_7b_by_hand():
    """Eight ranks: MHA's entry is 2 x 32 heads of 128, MFA-KR's one key of 256, a 32nd."""
    mha, mfa_kr = (received(shape_of(name), "entries", T, 8, torch.bfloat16) for name in ("mha", "mfa_kr"))
    assert (mha.forward, mha.backward) == (8192 * 2 * T * 7 // 8, 8192 * 4 * T * 7 // 8)
    assert (mfa_kr.forward, mfa_kr.backward) == (256 * 2 * T * 7 // 8, 256 * 4 * T * 7 // 8)
    assert mha.forward == 32 * mfa_kr.forward
    heads = received(shape_of("mha"), "heads", T, 8, torch.bfloat16, "full")
    assert heads.forward == heads.backward == 4 * 32 * 128 * 2 * T * 7 // 64 and heads.step == 3 * heads.forward
    mla = received(shape_of("mla"), "heads", T, 4, torch.float32)
    assert mla.forward == 32 * (192 + 192 + 128 + 128) * 4 * T * 3 // 16


@pytest.mark.parametrize(
    "attention, ranks, way",
    [("mha", 8, "heads"), ("gqa", 8, "heads"), ("gqa", 2, "entries"), ("gqa", 16, "entries"), ("mla", 8, "entries")],
)
def test_auto_takes_the_way_that_receives_less(attention, ranks, way):
    config = configs.load(["model=7b", f"attention={attention}", f"parallel.context={ranks}"])
    shape = measure(config.model, config.attention)
    assert chosen_way(config, shape, torch.bfloat16).way == way


def test_heads_that_do_not_divide_are_refused_and_auto_takes_entries():
    typed = ["attention=mfa_kr", "parallel.context=8"]
    assert plan_of(*typed)["context"]["by"] == "entries"
    with pytest.raises(ConfigError, match="does not divide the 1 key-value head .*: type parallel.context_by=entries$"):
        plan_of(*typed, "parallel.context_by=heads")


def test_a_plan_tells_what_a_step_receives_and_waits_for():
    """450 GB/s within a node of H100s and 8 x 50 GB/s between nodes, 80% of it reached; 8 sequences, 32 layers."""
    near, far = (
        plan_of("attention=mfa_kr", f"parallel.context={ranks}", f"cluster.nodes={ranks // 8}")["context"]
        for ranks in (8, 16)
    )
    layers = 8 * 32 * 256 * T
    assert near["received_bytes"] == layers * (2 + 4) * 7 // 8 and near["local_tokens"] == T // 8
    assert near["seconds"] == pytest.approx(layers * 6 * 7 / 8 / (0.8 * 450e9))
    assert far["seconds"] == pytest.approx(layers * 6 * 15 / 16 / (0.8 * 400e9)) and far["nodes"] == 2
    query = 2 * (4096 * 256 + 256 * 32 * 256) * 8 * 32 * T / 16 / (0.4 * 989e12)
    gathering, scattering = (layers * width * 15 / 16 / (0.8 * 400e9) for width in (2, 4))
    hidden = min(gathering, query) + min(scattering, 2 * query)
    assert far["hidden_seconds"] == pytest.approx(hidden)
    assert far["waiting_seconds"] == pytest.approx(far["seconds"] - hidden)


def test_keys_and_values_that_every_rank_makes_of_all_entries_are_in_the_step():
    """MLA's 512 latent values become keys and values of 32 heads of 128 each on all eight ranks."""
    alone, shared = (plan_of("attention=mla", f"parallel.context={ranks}") for ranks in (1, 8))
    expanding = 3 * 32 * 7 * 2 * 512 * 32 * 256
    assert shared["context"]["expansion_flops_per_token"] == expanding
    more = shared["time"]["computing_seconds"] - alone["time"]["computing_seconds"]
    assert more == pytest.approx(expanding * T * 8 / 8 / (0.4 * 989e12), rel=1e-6)
    assert shared["flops"] == alone["flops"]


@pytest.mark.parametrize("attention", ["mha", "mla", "mfa_kr"])
def test_ranks_that_share_sequences_hold_their_share_of_the_activations(attention):
    """And of all tokens one layer's entries, keys and values: four ranks at most 0.35 of what one has, here."""
    typed = [f"attention={attention}", "training.micro_batch_size=1"]
    alone, shared = (plan_of(*typed, f"parallel.context={ranks}")["memory"] for ranks in (1, 4))
    assert 0.25 < shared["activations_checkpointed"] / alone["activations_checkpointed"] < 0.35
    assert {key: shared[key] for key in ("weights", "gradients", "optimizer")} == {
        key: alone[key] for key in ("weights", "gradients", "optimizer")
    }


def test_ranks_that_keep_keys_and_values_of_all_tokens_hold_more_than_their_share():
    """Where nothing is computed again MLA's expanded heads of all tokens stay, in each of 32 layers: by hand bf16's
    bytes of keys and values of 32 heads, 192 and 128 wide; flash-attn widens the values, and takes a stretch twice."""
    typed = ["attention=mla", "training.micro_batch_size=1"]
    alone, shared = (plan_of(*typed, f"parallel.context={ranks}")["memory"]["activations"] for ranks in (1, 8))
    beyond = 7 / 8 * 32 * 32 * (192 + 128) * 2 * T
    assert beyond < shared - alone / 8 < 1.5 * beyond


def test_a_sequence_that_is_too_long_for_one_device_is_proposed_to_be_shared():
    """And what is proposed fits."""
    typed = ["attention=mfa", "training.batch_size=1", "cluster.nodes=1"]
    memory = plan_of(*typed, "cluster.devices_per_node=1")["memory"]
    assert not memory["fits"] and any(word.startswith("parallel.context=") for word in memory["change"])
    assert plan_of(*typed, *" ".join(memory["change"]).split())["memory"]["fits"]


def test_entries_are_proposed_where_fewer_bytes_take_longer_between_nodes():
    """MLRA's 128 heads can be changed for tokens by 128 ranks, each over its own 50 GB/s to other nodes."""
    typed = ["attention=mlra", "cluster.nodes=16", "parallel.context=128", "training.batch_size=1"]
    plan = plan_of(*typed, "training.activation_checkpointing=full")
    assert plan["context"]["by"] == "heads" and "type parallel.context_by=entries" in plan["notes"][-1]


def test_where_no_sequence_is_shared_a_plan_says_nothing_of_it():
    plan = plan_of("attention=mha")
    assert "context" not in plan and plan_of("attention=mha", "parallel.context_by=entries") == plan


def test_what_has_no_effect_or_is_hardly_meant_is_told():
    assert notes_of_config(configs.load(["parallel.context=2", "parallel.context_by=heads"])) == []
    [note] = notes_of_config(configs.load(["parallel.context_by=heads"]))
    assert note.startswith("parallel.context_by=heads does nothing with parallel.context=1")
    for recipe in ("experiment=long_context_yarn", "experiment=long_context_theta"):
        [note] = notes_of_config(configs.load([recipe]))
        assert note.startswith("init_from=null: this trains from scratch")
        assert notes_of_config(configs.load([recipe, "init_from=runs/mfa-nano"])) == []
