"""Choosing the next token."""

import torch

from mfa_train.model.generation import choose, generate

LOGITS = torch.tensor([[0.1, 3.0, 0.2, 2.9], [5.0, 0.0, 0.0, 0.0]])


def draws(**options) -> list[set[int]]:
    """The tokens that 200 draws choose, for each row."""
    generator = torch.Generator().manual_seed(0)
    options = {"temperature": 1.0, "top_k": None, "top_p": None} | options
    chosen = torch.cat([choose(LOGITS.clone(), generator=generator, **options) for _ in range(200)], dim=1)
    return [set(row.tolist()) for row in chosen]


def test_temperature_zero_takes_the_likeliest():
    assert draws(temperature=0) == [{1}, {0}]


def test_top_k_keeps_the_k_likeliest():
    assert draws(top_k=1) == [{1}, {0}]
    assert draws(top_k=2, temperature=100.0)[0] == {1, 3}


def test_top_p_keeps_the_smallest_set_that_holds_p():
    assert draws(top_p=0.5)[0] == {1, 3}  # 0.50 and 0.45 of the probability: the first alone holds less than 0.5
    assert draws(top_p=0.01) == [{1}, {0}]


def test_without_bounds_every_token_can_come():
    assert draws(temperature=100.0) == [{0, 1, 2, 3}] * 2


def test_generation_stops_at_the_end_of_the_text(small_model):
    model, prompt = small_model("mfa"), torch.tensor([[5, 6, 7]])
    first = generate(model, prompt, 1, temperature=0)[0, -1].item()
    assert generate(model, prompt, 10, temperature=0, eos_id=first).shape == (1, 4)
