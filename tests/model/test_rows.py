"""Decoding by the compiled product of few rows is decoding by torch's."""

import gc

import pytest
import torch

from mfa_train.attention.kernels import compiled
from mfa_train.model import rows
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.generation import decode, generate
from mfa_train.model.rows import few_rows, product

PROMPT = torch.tensor([[5, 6, 7], [9, 8, 0]])


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    if compiled.library() is None:
        pytest.skip("no C++ compiler with OpenMP")
    monkeypatch.setattr(rows, "LEAST_WEIGHTS", 0)


@pytest.fixture
def products(monkeypatch) -> list[torch.Size]:
    """The shapes of what has been multiplied by the kernel."""
    seen: list[torch.Size] = []
    monkeypatch.setattr(rows, "product", lambda x, weight: (seen.append(x.shape), product(x, weight))[1])
    return seen


def hooked(model: LanguageModel) -> int:
    return sum("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize(("width", "dim"), [(1, 1), (3, 15), (34, 17), (67, 70), (130, 128), (199, 1031)])
def test_it_is_the_product_of_any_shape(width, dim, dtype, error):
    weight = torch.randn(width, dim).to(dtype)
    for count in range(1, rows.MOST_ROWS + 1):
        x = torch.randn(dim, count).to(dtype).t()  # of any strides
        exact = x.double() @ weight.double().t()
        scale = x.double().abs() @ weight.double().abs().t()
        found = product(x.unflatten(0, (1, count)), weight)
        assert found.shape == (1, count, width) and found.dtype == dtype
        assert ((found[0].double() - exact).abs() <= error * scale).all()


@pytest.mark.parametrize(("attention", "threads"), [("mha", 2), ("mla", 1)])
def test_the_same_tokens_are_decoded(attention, threads, small_model, products, monkeypatch):
    model, before = small_model(attention), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        told = generate(model, PROMPT, 12, temperature=0)
    finally:
        torch.set_num_threads(before)
    assert {shape[-2] for shape in products} >= {1, 3} and not hooked(model)
    products.clear()
    monkeypatch.setattr(rows, "LEAST_WEIGHTS", 10**9)
    assert torch.equal(generate(model, PROMPT, 12, temperature=0), told) and not products


def test_a_model_is_as_it_was_once_its_text_is_abandoned_or_fails(small_model):
    model = small_model("mha")
    steps, others = decode(model, PROMPT, 8), decode(model, PROMPT, 8)
    next(steps), next(others)
    assert hooked(model) > 14
    del steps
    gc.collect()
    next(others)
    others.close()
    assert not hooked(model)
    with pytest.raises(IndexError):
        next(decode(model, PROMPT + 10**6, 8))
    assert not hooked(model)


def test_training_many_rows_and_other_types_are_torchs(small_model, products):
    model, tokens = small_model("mha"), torch.randint(0, 199, (1, rows.MOST_ROWS + 1))
    with few_rows(model):
        model(PROMPT, PROMPT).backward()
        assert model.model.layers[0].mlp.up_proj.weight.grad is not None
        with torch.no_grad():
            model(tokens)
            assert not products
            model(PROMPT)
            assert len(products) == hooked(model)
    with few_rows(model.double()):
        assert not hooked(model)
