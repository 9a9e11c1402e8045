"""What mixtures of experts cost, against published totals and torch's counter, and what matching makes of them."""

import re
import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mfa_train import config as configs
from mfa_train.budget.communication import traffic
from mfa_train.budget.devices import planned_device
from mfa_train.budget.exchange import seconds, sent_per_token
from mfa_train.budget.match import matched
from mfa_train.budget.match_report import told
from mfa_train.budget.memory import model_states
from mfa_train.budget.plan import make_plan
from mfa_train.budget.shape import measure
from mfa_train.budget.table import table
from mfa_train.errors import ConfigError
from tests.conftest import SMALL

STEP3 = ["experiment=step3_proportions", "model=316b"]
DEEPSEEK_V3 = [
    "model=316b",
    "model.vocab_size=129280",
    "model.feed_forward.n_routed_experts=256",
    "model.feed_forward.num_experts_per_tok=8",
    "model.feed_forward.moe_intermediate_size=2048",
    "model.feed_forward.first_k_dense_replace=3",
    "attention=mla",
    "attention.num_attention_heads=128",
    "attention.q_lora_rank=1536",
]
QWEN3 = [
    "model=7b_moe",
    "model.vocab_size=151936",
    "model.hidden_size=4096",
    "model.num_hidden_layers=94",
    "model.feed_forward.n_routed_experts=128",
    "model.feed_forward.num_experts_per_tok=8",
    "model.feed_forward.n_shared_experts=0",
    "model.feed_forward.moe_intermediate_size=1536",
    "attention=gqa",
    "attention.num_attention_heads=64",
    "attention.num_key_value_heads=4",
    "attention.head_dim=128",
]
SMALL_EXPERTS = [
    "feed_forward=experts",
    "model.feed_forward.n_routed_experts=8",
    "model.feed_forward.num_experts_per_tok=2",
    "model.feed_forward.moe_intermediate_size=24",
    "model.feed_forward.first_k_dense_replace=1",
]


@pytest.mark.parametrize(
    "overrides, total, multiplied, with_embedding, ffn",
    [
        (STEP3, 316.3e9, 37.9e9, None, 5.33e10),
        (DEEPSEEK_V3, 671.03e9, 36.6e9, 37.6e9, 4.84e10),
        (QWEN3, 235e9, None, None, 2.84e10),
    ],
)
def test_totals_of_published_mixtures(overrides, total, multiplied, with_embedding, ffn):
    """Totals: arXiv 2507.19427 for Step-3's text model; for DeepSeek-V3, without its MTP module, and for
    Qwen3-235B-A22B the README of their weights. The feed-forward's FLOPs of a decoded token: arXiv 2507.19427, Table 2,
    which leaves routers out. They are, of layers and experts as in each config.json,
    6 x 7168 x (56 x 4 x 5120 + 5 x 18432), 6 x 7168 x (58 x 9 x 2048 + 3 x 18432) and 6 x 4096 x 94 x 8 x 1536."""
    config = configs.load(overrides)
    shape = measure(config.model, config.attention)
    assert shape.params == pytest.approx(total, rel=0.005)
    assert multiplied is None or shape.multiplied_params == pytest.approx(multiplied, rel=0.005)
    assert with_embedding is None or shape.active_params == pytest.approx(with_embedding, rel=0.005)
    assert shape.ffn_flops == pytest.approx(ffn, rel=0.005)


def test_the_papers_mixture_has_its_two_totals_and_it_and_step3_are_planned_in_seconds():
    """arXiv 2412.19255: 6.9B parameters, 1.2B of them active; with MHA, whose total match gives the others."""
    config = configs.load(["experiment=mfa_paper_7b_moe", "attention=mha"])
    shape = measure(config.model, config.attention)
    assert (f"{shape.params / 1e9:.1f}", f"{shape.active_params / 1e9:.1f}") == ("6.9", "1.2")
    plans = []
    for overrides in (["experiment=mfa_paper_7b_moe"], STEP3):
        begun = time.process_time()
        plans.append(make_plan(configs.load([*overrides, "cluster.device=h100-80gb"])))
        assert time.process_time() - begun < 6
    told = table(["paper", "step3"], plans).splitlines()
    rows = {name: values for name, *values in (re.split(r"\s{2,}", line) for line in told)}
    assert rows["n_routed_experts"] == ["56", "48"]
    assert rows["parameters, total"][1] == "316.3B" and rows["parameters, active"][1] == "38.84B"


def test_parameters_and_flops_are_those_of_the_real_mixture():
    """A real step by torch's own counter; one layer is dense, three have experts."""
    config = configs.load(["attention=mha", *SMALL, *SMALL_EXPERTS, "model.num_hidden_layers=4"])
    from mfa_train.training.steps.engine import build_model

    model, shape = build_model(config).train(), measure(config.model, config.attention)
    assert shape.params == sum(parameter.numel() for parameter in model.parameters())
    of_experts = {name: parameter for name, parameter in model.named_parameters() if ".experts." in name}
    assert sum(size * count for size, count in shape.expert_sizes) == sum(one.numel() for one in of_experts.values())
    idle = sum(one.numel() * 6 // 8 for one in of_experts.values())
    assert shape.active_params == shape.params - idle
    x = torch.randint(0, config.model.vocab_size, (1, 33))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(x[:, :-1], x[:, 1:]).backward()
    layers, heads, width = 4, config.attention["num_attention_heads"], config.attention["head_dim"]
    other_half = 3 * layers * heads * 2 * width * 32  # of the scores and values, which torch counts too
    assert counter.get_total_flops() / 32 == shape.train_flops_per_token(32) + other_half


def test_ranks_that_share_experts_out_hold_and_send_their_share():
    """64 dense and 8 x 100 of experts, over four ranks of which two share: by hand, in float32."""
    sizes, experts = ((64, 1), (800, 1)), ((800, 1),)
    alone, shared = (model_states(sizes, torch.float32, 0, 4, expert_sizes=experts, expert_ranks=e) for e in (1, 2))
    assert (alone.weights, shared.weights) == (4 * 864, 4 * 464)
    sharded = model_states(sizes, torch.bfloat16, 2, 4, expert_sizes=experts, expert_ranks=2)
    assert (sharded.weights, sharded.optimizer) == (2 * 464, 12 * 216)
    assert traffic(sizes, torch.float32, 0, 4, 1) == 2 * 4 * 864 * 3 // 4
    assert traffic(sizes, torch.float32, 0, 4, 1, experts, 2) == 2 * 4 * 64 * 3 // 4 + 2 * 4 * 400 // 2
    assert traffic(sizes, torch.float32, 0, 4, 1, experts, 4) == 2 * 4 * 64 * 3 // 4


@pytest.mark.parametrize("devices, experts, told", [(1, 2, "there is 1 rank"), (4, 3, "does not divide the 4 ranks")])
def test_a_plan_is_refused_where_its_devices_cannot_share_the_experts_out(devices, experts, told):
    typed = ["model=nano_moe", f"cluster.devices_per_node={devices}", f"parallel.experts={experts}"]
    with pytest.raises(ConfigError, match=f"^parallel.experts={experts}.*{told}.*: type parallel.experts="):
        make_plan(configs.load(typed))


def test_what_tokens_send_to_experts_and_how_long_it_takes():
    """Step-3: 56 layers of three experts, there and back in both passes, 15 of 16 to other ranks; on H100s eight share
    a node of 450 GB/s, and each has 50 GB/s to others."""
    values = measure(*(getattr(configs.load(STEP3), part) for part in ("model", "attention"))).values_to_experts
    assert values == 56 * 3 * 7168
    assert sent_per_token(values, 2, 16, again=False) == 4 * 56 * 3 * 7168 * 2 * 15 // 16
    assert sent_per_token(values, 2, 16, again=True) == 6 * 56 * 3 * 7168 * 2 * 15 // 16
    device = planned_device("h100-80gb", 8)
    assert seconds(45e9, 8, device, 8, None) == pytest.approx(45 / (0.8 * 450))
    assert seconds(45e9, 16, device, 8, None) == pytest.approx(45 * 8 / 15 / (0.8 * 50))
    assert seconds(45e9, 16, device, 8, network=100e9) == pytest.approx(45 * 8 / 15 / (0.8 * 12.5))
    assert seconds(45e9, 16, planned_device("cpu", 1), 8, None) is None and seconds(0, 1, device, 8, None) == 0


@pytest.mark.parametrize("by", ["moe_intermediate_size", "n_routed_experts", "num_attention_heads"])
@pytest.mark.parametrize("counted", ["total", "active"])
def test_mixtures_are_matched_by_width_or_number_of_experts(by, counted):
    typed = ["model=nano_moe", "attention=mla", f"match.by={by}", f"match.counted={counted}"]
    base = configs.load(typed)
    now = measure(base.model, base.attention)
    target = 1.3 * (now.params if counted == "total" else now.active_params)
    config = replace(base, match=replace(base.match, params=target))
    if (by, counted) == ("n_routed_experts", "active"):
        with pytest.raises(ConfigError, match="however many there are: type match.by=moe_intermediate_size, or"):
            matched(config)
        return
    found, report = matched(config)
    shape = measure(found.model, found.attention)
    assert (shape.params if counted == "total" else shape.active_params) == pytest.approx(target, rel=0.005)
    assert (report["params"]["total"], report["params"]["active"]) == (shape.params, shape.active_params)
    assert f"{shape.params:,} parameters, {shape.active_params:,} of them active" in "\n".join(told(report))
    assert found.model.intermediate_size == base.model.intermediate_size
    assert matched(found)[0].model == found.model


@pytest.mark.parametrize(
    "typed, told",
    [
        (["model=nano", "match.by=n_routed_experts"], "whose feed-forward is dense: type match.by=intermediate_size"),
        (["model=nano_moe", "match.by=intermediate_size"], "type match.by=moe_intermediate_size or match.by=n_routed"),
        (["model=tiny_moe", "match.by=n_routed_experts", "attention=mla"], "misses .*: type match.by=moe_intermediate"),
    ],
)
def test_a_key_that_makes_nothing_equal_is_refused_with_one_that_does(typed, told):
    with pytest.raises(ConfigError, match=told):
        matched(configs.load([*typed, "match.reference=mha"]))


def test_the_sweep_of_a_small_mixture_is_four_attentions_at_one_cache_and_size():
    members = configs.members(["sweep=nano_moe"])
    shapes = {}
    for member in members:
        config = matched(member.config)[0]
        shape = measure(config.model, config.attention)
        shapes[config.attention["name"]] = shape.cache_bytes("bf16"), shape.params
    assert shapes.keys() == {"mha", "mla", "mfa", "mfa_kr"} and len(members) == 8
    assert {cache for name, (cache, _) in shapes.items() if name != "mha"} == {1024}
    assert all(params == pytest.approx(shapes["mha"][1], rel=0.005) for _, params in shapes.values())
