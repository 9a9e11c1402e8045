"""A mixture of experts gives what transformers' classes give, and balances as it is written in the papers."""

import re

import pytest
import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Config, DeepseekV3MoE
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeConfig, Qwen3MoeSparseMoeBlock

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.feed_forward import feed_forward_config, layers_by_kind
from mfa_train.feed_forward.balancing import auxiliary_loss, move_bias, tokens_of_experts
from mfa_train.feed_forward.family.experts import Experts
from mfa_train.feed_forward.products import Combine, Dispatch, Looped, arranged, weights_of_rows
from mfa_train.feed_forward.router import Chosen

HIDDEN, WIDTH, COUNT = 32, 24, 8
KEYS = {"n_routed_experts": COUNT, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH}
DEEPSEEK = {
    "scoring_func": "sigmoid",
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "bias_update_speed": 0.001,
}


@pytest.fixture(scope="module")
def defaults() -> dict:
    return configs.load(["feed_forward=experts"]).model.feed_forward


def experts(defaults: dict, **keys) -> Experts:
    """With weights large enough to choose by."""
    torch.manual_seed(1)
    made = Experts(HIDDEN, feed_forward_config(defaults | KEYS | keys))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.2)
    return made


def fill(theirs: torch.nn.Module, ours: Experts) -> None:
    """Ours into a block of transformers, which stacks gate and up."""
    state = {
        "gate.weight": ours.gate.weight,
        "experts.gate_up_proj": torch.cat([ours.experts.gate_proj.weight, ours.experts.up_proj.weight], dim=1),
        "experts.down_proj": ours.experts.down_proj.weight,
    }
    if ours.gate.biased:
        state["gate.e_score_correction_bias"] = ours.gate.e_score_correction_bias
    if hasattr(ours, "shared_experts"):
        state |= {f"shared_experts.{name}": value for name, value in ours.shared_experts.state_dict().items()}
    theirs.load_state_dict(state)


def test_sigmoid_router_groups_bias_and_shared_experts_are_deepseek_v3s(defaults):
    ours = experts(defaults, **DEEPSEEK, n_shared_experts=2)
    ours.gate.e_score_correction_bias.normal_(0, 0.1)
    settings = KEYS | DEEPSEEK | {"n_shared_experts": 2, "hidden_size": HIDDEN}
    theirs = DeepseekV3MoE(
        DeepseekV3Config(**{key: settings[key] for key in settings if "bias" not in key and "func" not in key})
    )
    fill(theirs, ours)
    x = torch.randn(3, 50, HIDDEN)
    torch.testing.assert_close(ours(x)[0], theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [True, False])
def test_softmax_router_is_qwen3_moes(defaults, norm):
    ours = experts(defaults, n_shared_experts=0, norm_topk_prob=norm)
    theirs = Qwen3MoeSparseMoeBlock(
        Qwen3MoeConfig(
            hidden_size=HIDDEN,
            num_experts=COUNT,
            num_experts_per_tok=2,
            moe_intermediate_size=WIDTH,
            norm_topk_prob=norm,
        )
    )
    fill(theirs, ours)
    x = torch.randn(3, 50, HIDDEN)
    found = theirs(x)
    torch.testing.assert_close(ours(x)[0], found[0] if isinstance(found, tuple) else found, rtol=1e-5, atol=1e-5)


def test_products_and_their_gradients_are_those_of_each_expert_alone_also_of_one_without_tokens():
    rows = [5, 0, 3, 7]
    x, weights = torch.randn(sum(rows), 16, requires_grad=True), torch.randn(4, 8, 16, requires_grad=True)
    alone = torch.cat([part @ weight.t() for part, weight in zip(x.split(rows), weights)])
    together = Looped.apply(x, weights, rows)
    torch.testing.assert_close(together, alone)
    for grad in (torch.randn(sum(rows), 8), torch.ones(()).expand(sum(rows), 8)):
        expected = torch.autograd.grad(alone, (x, weights), grad, retain_graph=True)
        found = torch.autograd.grad(together, (x, weights), grad, retain_graph=True)
        torch.testing.assert_close(found, expected)
    assert not found[1][1].any()


def test_a_token_is_read_as_if_it_stood_alone_and_reaches_the_experts_it_went_to(defaults):
    ours = experts(defaults).double()
    x = torch.randn(2, 9, HIDDEN, dtype=torch.double)
    y, (_, load, _) = ours(x)
    alone = torch.stack([torch.stack([ours(token[None, None])[0][0, 0] for token in row]) for row in x])
    torch.testing.assert_close(y, alone, rtol=1e-5, atol=1e-5)  # the router is float32
    y.sum().backward()
    assert load.sum() == 2 * 9 * 2
    for stacked in ours.experts.children():
        assert torch.equal(stacked.weight.grad.flatten(1).any(dim=1), load > 0)
    assert ours.gate.weight.grad.any()


def test_the_loss_of_a_sequence_is_deepseek_v3s():
    """Equations 17 to 20 of arXiv 2412.19437, written out."""
    torch.manual_seed(2)
    scores = torch.rand(2, 6, COUNT)
    chosen = scores.topk(2, dim=-1).indices
    expected = []
    for s, picked in zip(scores, chosen):
        f = [COUNT / (2 * 6) * sum(int(i in token) for token in picked.tolist()) for i in range(COUNT)]
        p = [sum(float(token[i] / token.sum()) for token in s) / 6 for i in range(COUNT)]
        expected.append(sum(map(lambda a, b: a * b, f, p)))
    load = tokens_of_experts(chosen.flatten(1), COUNT)
    found = auxiliary_loss(Chosen(chosen, scores.gather(-1, chosen), scores, scores.log()), load)
    assert found.item() == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_the_bias_makes_busy_experts_less_likely_and_idle_ones_likelier_by_its_speed():
    bias = torch.tensor([0.5, 0.0, -0.5, 0.25])
    move_bias(bias, torch.tensor([10, 2, 6, 6]), 0.125)
    assert bias.tolist() == [0.375, 0.125, -0.5, 0.25]


def test_the_bias_stays_float32_in_a_model_of_another_type(defaults):
    ours = experts(defaults, **DEEPSEEK).bfloat16()
    assert ours.gate.weight.dtype == torch.bfloat16
    assert ours.gate.e_score_correction_bias.dtype == torch.float32


def test_beyond_its_capacity_an_expert_takes_no_more_of_a_sequence_the_first_come_first(defaults):
    ours = experts(defaults, num_experts_per_tok=1, n_shared_experts=0, capacity_factor=1.0)
    x = torch.randn(1, 1, HIDDEN).expand(1, 16, HIDDEN).contiguous()
    y, _ = ours(x)  # all want one expert, whose share is 16 / 8
    assert (y[0].abs().sum(dim=-1) > 0).tolist() == [True] * 2 + [False] * 14


def test_what_is_evaluated_drops_no_token_so_that_none_depends_on_those_behind_it(defaults):
    ours = experts(defaults, num_experts_per_tok=1, capacity_factor=1.0).eval()
    x = torch.randn(1, 1, HIDDEN).expand(1, 16, HIDDEN).contiguous()
    whole, first, one = (ours(x[:, :count])[0] for count in (16, 8, 1))
    torch.testing.assert_close(whole[:, :8], first)
    torch.testing.assert_close(whole, one.expand_as(whole))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok=9: a token can reach 8 experts: type"),
        (
            {"n_group": 3},
            "n_group=3 does not divide model.feed_forward.n_routed_experts=8: type model.feed_forward.n_group=2",
        ),
        ({"n_group": 4, "topk_group": 5}, "topk_group=5: there are 4 groups"),
        ({"n_group": 4, "num_experts_per_tok": 3}, "a token can reach 2 experts in 1 of 4 groups"),
        ({"scoring_func": "tanh"}, "expected one of softmax, sigmoid"),
    ],
)
def test_what_no_router_can_do_is_refused(defaults, keys, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        feed_forward_config(defaults | KEYS | keys)


def test_a_key_of_experts_is_refused_of_a_dense_model_by_name():
    with pytest.raises(
        ConfigError, match="feed_forward=dense has no such key: type feed_forward=experts, which has it"
    ):
        configs.load(["model.feed_forward.n_routed_experts=8"])


def test_a_key_of_experts_that_a_file_sets_of_a_dense_model_is_refused_with_its_place():
    told = r"nano_moe.yaml, line \d+: model.feed_forward.moe_intermediate_size=128: feed_forward=dense has no such key"
    with pytest.raises(ConfigError, match=told):
        configs.load(["model=nano_moe", "feed_forward=dense"])


@pytest.mark.parametrize("choices, multiple", [(8, 1), (4000, 16)])
def test_rows_are_filled_up_for_products_that_are_compiled_and_nothing_else_changes(choices, multiple):
    """In bfloat16 on a CPU: as if all were multiplied in the order in which they came."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(choices // 2, 16, generator=generator)
    experts = torch.randint(0, 7, (choices,), generator=generator)  # the eighth has no tokens
    load = tokens_of_experts(experts[None], 8)[0]
    plain, filled = (arranged(experts, load, x.to(dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert plain.load.equal(load) and filled.load.equal((load + multiple - 1) // multiple * multiple)
    gradients, weights = [], torch.rand(len(experts), generator=generator)
    for order, inverse, rows in (plain, filled):
        leaf = x.clone().requires_grad_()
        matrices = torch.randn(8, 24, 16, generator=generator.manual_seed(1)).requires_grad_()
        given = weights.clone().requires_grad_()
        product = Looped.apply(Dispatch.apply(leaf, order, inverse, 2), matrices, rows.tolist())
        y = Combine.apply(product * weights_of_rows(given, order).unsqueeze(1), order, inverse, 2)
        y.square().sum().backward()
        gradients.append((y.detach(), leaf.grad, matrices.grad, given.grad))
    torch.testing.assert_close(*gradients)


def test_a_mixture_without_a_layer_of_experts_is_refused():
    model = configs.load(["model=nano_moe", "model.feed_forward.first_k_dense_replace=4"]).model
    with pytest.raises(ConfigError, match="none of the 4 layers would have it: type a smaller"):
        layers_by_kind(model)
