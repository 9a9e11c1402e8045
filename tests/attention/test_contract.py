"""What every attention promises, whatever its formula."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mfa_train import config as configs
from mfa_train.attention import Attention
from mfa_train.attention.cache import DecodeCache
from mfa_train.attention.kernels.causal import causal_attention
from mfa_train.attention.rope import Positions
from mfa_train.budget.plan import make_plan
from mfa_train.budget.shape import measure
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.generation import generate
from tests.conftest import SMALL, VARIANTS

pytestmark = pytest.mark.parametrize("attention", VARIANTS)
QK_NORM = pytest.mark.parametrize("qk_norm", ["false", "true"])
NORM_AND_GATE = pytest.mark.parametrize(
    "overrides",
    [(), ("attention.qk_norm=true", "attention.output_gate=head"), ("attention.output_gate=element",)],
    ids=["plain", "qk_norm, gate of heads", "gate of elements"],
)


def tokens(batch: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(0, 199, (batch, length), generator=torch.Generator().manual_seed(0))


def first_layer(model: LanguageModel, tokens: int) -> tuple[Attention, torch.Tensor, Positions]:
    """A layer's attention in float64, an input of three rows for it and their positions."""
    x = torch.randn(3, tokens, 64, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    return model.double().model.layers[0].self_attn, x, model.model.rope(torch.arange(tokens))


@pytest.fixture
def stale_memory(monkeypatch):
    """What a new buffer holds before it is written is NaN."""
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *given, **named: new_empty(*given, **named).fill_(torch.nan))


@NORM_AND_GATE
def test_decoding_through_the_cache_equals_the_full_forward(attention, overrides, small_model):
    model, x = small_model(attention, *overrides), tokens()
    cache = DecodeCache(len(model.model.layers), capacity=24)
    with torch.no_grad():
        full = model(x)
        # A prompt, a block behind it, then token by token.
        blocks = [x[:, :9], x[:, 9:14], *x[:, 14:].split(1, dim=1)]
        decoded = torch.cat([model(block, cache=cache) for block in blocks], dim=1)
    torch.testing.assert_close(decoded, full, rtol=1e-4, atol=1e-5)


@NORM_AND_GATE
def test_rows_of_different_length_are_decoded_as_each_alone(attention, overrides, small_model, stale_memory):
    """A single token, then a block of them."""
    model, x, lengths = small_model(attention, *overrides), tokens(batch=3, length=14), torch.tensor([8, 3, 6])
    cache = DecodeCache(len(model.model.layers), capacity=14)
    with torch.no_grad():
        full = model(x)
        model(x[:, :8], cache=cache, lengths=lengths)
        for begin, end in ((0, 1), (1, 2), (2, 6)):
            rows, places = torch.arange(3).unsqueeze(1), lengths.unsqueeze(1) + torch.arange(begin, end)
            decoded = model(x[rows, places], cache=cache)
            torch.testing.assert_close(decoded, full[rows, places], rtol=1e-4, atol=1e-5)


@QK_NORM
def test_attending_over_entries_equals_attention_over_keys_and_values(attention, qk_norm, small_model):
    """In float64: one query and a block, over rows of one length and of several, with anything behind their ends."""
    layer, x, positions = first_layer(small_model(attention, f"attention.qk_norm={qk_norm}"), tokens=13)
    with torch.no_grad():
        q, entry = layer.query(x, positions), layer.cache_entry(x, positions)
        k, v = layer.keys_values(*entry, positions=positions)
        for queries in (1, 4):
            expected = causal_attention(q[:, -queries:], k, v, layer.scale, "sdpa", sinks=layer.sinks)
            found = layer.attend(q[:, -queries:], *entry, positions=positions)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

            lengths = torch.tensor([13, 7, 10])
            spoilt = [part.clone() for part in entry]
            for row, length in enumerate(lengths):
                for part in spoilt:
                    part[row, length:] = 1e3
            ends = [q[row : row + 1, length - queries : length] for row, length in enumerate(lengths)]
            found = layer.attend(torch.cat(ends), *spoilt, positions=positions, lengths=lengths)
            for row, length in enumerate(lengths):
                rows = (one[row : row + 1, :length] for one in (k, v))
                expected = causal_attention(ends[row], *rows, layer.scale, "sdpa", sinks=layer.sinks)
                torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-10, atol=1e-12)


def test_the_cache_holds_exactly_the_planned_bytes(attention, small_model):
    config = configs.load([f"attention={attention}", *SMALL])
    values = make_plan(config)["kv_cache"]["values_per_token_per_layer"]
    for dtype in (torch.float32, torch.bfloat16):
        model = small_model(attention).to(dtype)
        cache = DecodeCache(len(model.model.layers), capacity=10)
        with torch.no_grad():
            model(tokens(batch=3, length=10), cache=cache)
        assert cache.num_bytes == 3 * 10 * len(model.model.layers) * values * dtype.itemsize


def test_a_decoded_tokens_planned_flops_are_those_of_the_models_own_step(attention, small_model):
    model = small_model(attention, "attention.output_gate=element").double()
    config = configs.load([f"attention={attention}", "attention.output_gate=element", *SMALL])
    shape = measure(config.model, config.attention)
    for context in (9, 30):
        cache, x = DecodeCache(len(model.model.layers), context), tokens(batch=1, length=context)
        with torch.no_grad():
            model(x[:, :-1], cache=cache)
            with FlopCounterMode(display=False) as counter:
                model(x[:, -1:], cache=cache)
        attending = shape.decode_attention_flops(context, "exact") + shape.decode_linear_flops()
        assert counter.get_total_flops() == attending + shape.ffn_flops + shape.head_flops


class LargestResult(TorchDispatchMode):
    """Values of the largest tensor that an operation made in memory of its own."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if torch.is_tensor(one)}
        for one in tree_leaves(result):
            if torch.is_tensor(one) and one.untyped_storage().data_ptr() not in given:
                self.values = max(self.values, one.numel())
        return result


def test_a_decode_step_makes_no_keys_or_values_of_all_heads(attention, small_model):
    model, x = small_model(attention), tokens(batch=1, length=400)
    cache = DecodeCache(len(model.model.layers), capacity=400)
    with torch.no_grad():
        model(x[:, :-1], cache=cache)
        with LargestResult() as largest:
            model(x[:, -1:], cache=cache)
    layer = model.model.layers[0].self_attn
    assert largest.values < 400 * layer.num_attention_heads * min(layer.qk_head_dim, layer.v_head_dim)


@NORM_AND_GATE
def test_gradients_reach_every_parameter(attention, overrides, small_model):
    model, x = small_model(attention, *overrides), tokens()
    model(x[:, :-1], x[:, 1:]).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


def test_a_gate_adds_one_matrix_and_multiplies_the_heads_outputs(attention, small_model):
    plain, x, positions = first_layer(small_model(attention), tokens=5)
    for gate, width in (("head", 1), ("element", plain.v_head_dim)):
        gated, _, _ = first_layer(small_model(attention, f"attention.output_gate={gate}"), tokens=5)
        weights = gated.state_dict()
        assert weights.pop("g_proj.weight").shape == (plain.num_attention_heads * width, 64)
        assert weights.keys() == plain.state_dict().keys()
        assert all(weights[name].equal(weight) for name, weight in plain.state_dict().items())
        gated.g_proj.weight.data.zero_()  # sigmoid(0) = 1/2
        with torch.no_grad():
            torch.testing.assert_close(gated(x, positions), plain(x, positions) / 2, rtol=1e-9, atol=1e-12)


@QK_NORM
def test_a_later_token_never_changes_an_earlier_output(attention, qk_norm, small_model):
    model, x = small_model(attention, f"attention.qk_norm={qk_norm}"), tokens()
    changed = x.clone()
    changed[:, 15] = (changed[:, 15] + 1) % 199
    with torch.no_grad():
        before, after = model(x), model(changed)
    assert torch.equal(before[:, :15], after[:, :15])
    assert not torch.allclose(before[:, 15:], after[:, 15:], atol=1e-3)


def test_scores_depend_on_distance_alone(attention, small_model):
    """RoPE turns queries and keys alike: the same tokens later in the context attend alike."""
    model = small_model(attention)
    layer, rope = model.model.layers[0].self_attn, model.model.rope
    x = torch.randn(1, 8, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        here, there = (layer(x, rope(torch.arange(start, start + 8))) for start in (0, 40))
        still = layer(x, rope(torch.zeros(8, dtype=torch.long)))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(here, still, atol=1e-3)


def test_generation_is_the_models_own_choice_and_repeats(attention, small_model):
    model, prompt = small_model(attention), tokens(length=5)
    greedy = generate(model, prompt, 12, temperature=0)
    with torch.no_grad():
        assert torch.equal(model(greedy)[:, 4:-1].argmax(-1), greedy[:, 5:])
    sampled = [generate(model, prompt, 12, top_k=20, top_p=0.9, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0], sampled[2])
