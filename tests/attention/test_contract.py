"""What every attention promises, whatever its formula."""

import pytest
import torch

from mfa_train import config as configs
from mfa_train.attention.cache import DecodeCache
from mfa_train.budget.plan import make_plan
from mfa_train.model.generation import generate
from tests.conftest import SMALL, VARIANTS

pytestmark = pytest.mark.parametrize("attention", VARIANTS)
QK_NORM = pytest.mark.parametrize("qk_norm", ["false", "true"])


def tokens(batch: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(0, 199, (batch, length), generator=torch.Generator().manual_seed(0))


@QK_NORM
def test_decoding_through_the_cache_equals_the_full_forward(attention, qk_norm, small_model):
    model, x = small_model(attention, f"attention.qk_norm={qk_norm}"), tokens()
    cache = DecodeCache(len(model.model.layers), capacity=24)
    with torch.no_grad():
        full = model(x)
        # A prompt, a block behind it, then token by token.
        blocks = [x[:, :9], x[:, 9:14], *x[:, 14:].split(1, dim=1)]
        decoded = torch.cat([model(block, cache=cache) for block in blocks], dim=1)
    torch.testing.assert_close(decoded, full, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_holds_exactly_the_planned_bytes(attention, dtype, small_model):
    model, x = small_model(attention).to(dtype), tokens(batch=3, length=10)
    cache = DecodeCache(len(model.model.layers), capacity=10)
    with torch.no_grad():
        model(x, cache=cache)
    values = make_plan(configs.load([f"attention={attention}", *SMALL]))["kv_cache"]["values_per_token_per_layer"]
    assert cache.num_bytes == 3 * 10 * len(model.model.layers) * values * dtype.itemsize


@QK_NORM
def test_gradients_reach_every_parameter(attention, qk_norm, small_model):
    model, x = small_model(attention, f"attention.qk_norm={qk_norm}"), tokens()
    model(x[:, :-1], x[:, 1:]).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


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
