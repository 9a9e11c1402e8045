"""What every feed-forward with a router promises behind an attention: what it does not see does not change it."""

import pytest
import torch

from mfa_train.attention.cache import DecodeCache
from mfa_train.model.generation import generate

KINDS = {
    "softmax": ("feed_forward=experts", "model.feed_forward.first_k_dense_replace=1"),
    "sigmoid, groups and a bias": (
        *(
            "feed_forward=experts",
            "model.feed_forward.scoring_func=sigmoid",
            "model.feed_forward.bias_update_speed=0.1",
        ),
        *("model.feed_forward.n_group=4", "model.feed_forward.topk_group=2"),
    ),
}


@pytest.fixture(params=KINDS)
def model(request, small_model):
    return small_model("mfa", *KINDS[request.param], "model.feed_forward.moe_intermediate_size=24")


def tokens(batch: int = 3, length: int = 24) -> torch.Tensor:
    return torch.randint(0, 199, (batch, length), generator=torch.Generator().manual_seed(0))


def test_decoding_through_the_cache_equals_the_full_forward_for_rows_of_any_length(model):
    x, lengths = tokens(length=20), torch.tensor([8, 3, 6])
    whole, ragged = (DecodeCache(len(model.model.layers), capacity=20) for _ in range(2))
    with torch.no_grad():
        full = model(x)
        blocks = [x[:, :9], x[:, 9:14], *x[:, 14:].split(1, dim=1)]
        decoded = torch.cat([model(block, cache=whole) for block in blocks], dim=1)
        torch.testing.assert_close(decoded, full, rtol=1e-4, atol=1e-5)
        model(x[:, :8], cache=ragged, lengths=lengths)
        for begin, end in ((0, 1), (1, 4)):
            rows, places = torch.arange(3).unsqueeze(1), lengths.unsqueeze(1) + torch.arange(begin, end)
            decoded = model(x[rows, places], cache=ragged)
            torch.testing.assert_close(decoded, full[rows, places], rtol=1e-4, atol=1e-5)


def test_a_later_token_and_another_row_never_change_an_output(model):
    x = tokens()
    y = x.clone()
    y[:, 12:], y[2] = y[:, 12:].flip(1), 5
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:2, :12], model(y)[:2, :12], rtol=0, atol=1e-5)


def test_generation_is_the_models_own_choice(model):
    x = tokens(batch=2, length=7)
    expected = x
    with torch.no_grad():
        for _ in range(5):
            expected = torch.cat((expected, model(expected)[:, -1:].argmax(-1)), dim=1)
    assert generate(model, x, 5, temperature=0.0).equal(expected)
