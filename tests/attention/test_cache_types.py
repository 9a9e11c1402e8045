"""A cache in a smaller type holds exactly the bytes that are planned and matched, and costs what its rounding costs."""

import pytest
import torch

from mfa_train import config as configs
from mfa_train.attention.cache import DecodeCache
from mfa_train.attention.cache_types import CACHE_DTYPES, cache_dtype, read, stored
from mfa_train.budget.shape import measure
from mfa_train.errors import ConfigError
from tests.conftest import SMALL, VARIANTS

ROUNDING = {"bf16": 2.0**-9, "fp8": 2.0**-4}
"""The most by which a value is off, as a share of it: half a unit of the last of 8 and of 4 significant bits."""
FP8 = torch.float8_e4m3fn


@pytest.mark.parametrize("attention", VARIANTS)
def test_a_cache_of_each_type_has_the_bytes_that_are_matched(attention, small_model):
    model, x = small_model(attention), torch.randint(0, 199, (3, 10))
    config = configs.load([f"attention={attention}", *SMALL])
    shape = measure(config.model, config.attention)
    for name in ("fp32", "bf16", "fp8"):
        cache = DecodeCache(len(model.model.layers), capacity=10, dtype=CACHE_DTYPES[name])
        with torch.no_grad():
            model(x, cache=cache)
        assert cache.bytes_per_token == shape.cache_bytes(name)
        assert cache.num_bytes == 3 * 10 * shape.cache_bytes(name)


def test_fp8_counts_a_scale_for_each_tensor():
    config = configs.load(["attention=mla", *SMALL])
    shape = measure(config.model, config.attention)
    assert shape.cache_bytes("fp8") == shape.cache_bytes("fp32") // 4 + 2 * 2  # layers, latent and rotated key


@pytest.mark.parametrize("attention", VARIANTS)
def test_logits_through_a_smaller_cache_differ_by_its_rounding(attention, small_model):
    model, x = small_model(attention), torch.randint(0, 199, (4, 32), generator=torch.Generator().manual_seed(0))
    layers, off = len(model.model.layers), {}
    with torch.no_grad():
        full = model(x)
        for name, rounding in ROUNDING.items():
            cache = DecodeCache(layers, capacity=32, dtype=CACHE_DTYPES[name])
            through = torch.cat([model(part, cache=cache) for part in (x[:, :30], x[:, 30:31], x[:, 31:])], dim=1)
            off[name] = ((through - full).square().mean() / full.square().mean()).sqrt().item()
            assert off[name] < 2 * layers * rounding  # keys and values of each layer are rounded once
    assert 0 < 4 * off["bf16"] < off["fp8"]


def test_each_token_of_each_tensor_has_its_scale():
    """Rows of 1e-30 beside rows of 1e30, in one batch and beside another tensor: each is off by its own rounding."""
    sizes = torch.tensor([[1e-30, 1.0, 1e30], [3e-4, 500.0, 0.0]])
    generator = torch.Generator().manual_seed(0)
    entry = tuple(
        torch.randn(2, 3, *shape, generator=generator) * sizes.view(2, 3, *(1,) * len(shape))
        for shape in [(2, 8), (5,)]
    )
    kept = stored(entry, FP8)
    assert [(part.dtype, part.shape) for part in kept] == [
        *((FP8, part.shape) for part in entry),
        *((torch.uint8, (2, 3)) for _ in entry),
    ]
    for part, back in zip(entry, read(kept, torch.float32)):
        largest = part.flatten(2).abs().amax(-1).view(2, 3, *(1,) * (part.ndim - 2))
        finest = largest / 224 * 2**-10  # half of E4M3's smallest number, 2^-9, where the largest is at least 224
        assert ((part - back).abs() <= torch.maximum(part.abs() * ROUNDING["fp8"], finest)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_made_finite(bad):
    entry = torch.ones(1, 2, 4)
    entry[0, 1, 2] = bad
    (back,) = read(stored((entry,), FP8), torch.float32)
    assert torch.equal(back[0, 0], torch.ones(4)) and not back[0, 1].isfinite().any()


def test_a_device_that_cannot_hold_fp8_is_told_in_one_line(monkeypatch):
    def lacking(*_, **__):
        raise RuntimeError("not implemented for 'Float8_e4m3fn'")

    monkeypatch.setattr(torch.Tensor, "to", lacking)
    with pytest.raises(
        ConfigError, match=r"^cache.dtype=fp8: torch .* on cpu \(not implemented.*: type cache.dtype=bf16$"
    ):
        cache_dtype("fp8", torch.device("cpu"))
