"""No kernel changes results beyond rounding: each against the same attention in float64."""

import pytest
import torch
import torch.nn.functional as F

from mfa_train.attention.kernels import sdpa
from mfa_train.attention.kernels.causal import _flash_missing, causal_attention

ROUNDING = 2**-7
"""Twice bfloat16's relative spacing, for root mean squares over a tensor."""

SHAPES = [  # batch, tokens, heads, kv_heads, qk_dim, v_dim
    pytest.param(2, 300, 6, 6, 32, 32, id="mha"),
    pytest.param(2, 200, 6, 2, 32, 32, id="gqa"),
    pytest.param(2, 130, 6, 1, 64, 64, id="mfa"),
    pytest.param(1, 65, 4, 4, 48, 32, id="mla"),
    pytest.param(1, 7, 4, 4, 16, 16, id="shorter than a block"),
]


def run(kernel: str, tensors: list[torch.Tensor], grad: torch.Tensor) -> list[torch.Tensor]:
    """The output and the gradients of q, k and v."""
    inputs = [x.detach().clone().requires_grad_() for x in tensors]
    out = causal_attention(*inputs, inputs[0].shape[-1] ** -0.5, kernel)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(x.grad for x in inputs)]


def errors(found: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, exact)]


def inputs(batch, tokens, heads, kv_heads, qk_dim, v_dim, device="cpu") -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def values(*shape):
        return torch.randn(shape, generator=generator).bfloat16().to(device)

    # Keys and values with a common part, as in trained models: differences of large numbers show rounding.
    q, k, v = (
        values(batch, tokens, heads, qk_dim),
        values(batch, tokens, kv_heads, qk_dim),
        values(batch, tokens, kv_heads, v_dim),
    )
    return [2 * q, k + 0.5, v + 0.5], values(batch, tokens, heads, v_dim)


@pytest.mark.parametrize("shape", [shape.values for shape in SHAPES], ids=[shape.id for shape in SHAPES])
@pytest.mark.parametrize("kernel", ["sdpa", "tiled"])
def test_kernels_differ_by_rounding_alone(kernel, shape):
    tensors, grad = inputs(*shape)
    exact = run("sdpa", [x.double() for x in tensors], grad.double())
    found = errors(run(kernel, tensors, grad), exact)
    assert max(found) < ROUNDING, found


def test_tiled_is_not_sdpa_under_another_name():
    tensors, grad = inputs(2, 130, 6, 1, 64, 64)
    tiled, sdpa = run("tiled", tensors, grad), run("sdpa", tensors, grad)
    assert not all(torch.equal(a, b) for a, b in zip(tiled, sdpa))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("v_dim", [16, 24])
def test_queries_at_the_end_of_more_keys_see_what_the_last_of_all_queries_see(monkeypatch, kv_heads, v_dim):
    monkeypatch.setattr(sdpa, "MASK_AT_ONCE", 700)  # where heads' widths differ: a block of queries at a time
    tensors, _ = inputs(2, 100, 4, kv_heads, 16, v_dim)
    q, k, v = (x.double() for x in tensors)
    grad = torch.randn(2, 40, 4, v_dim, generator=torch.Generator().manual_seed(1)).double()
    out, grad_q, *grads = run("sdpa", [q, k, v], F.pad(grad, (0, 0, 0, 0, 60, 0)))
    expected = [out[:, 60:], grad_q[:, 60:], *grads]
    for found, exact in zip(run("sdpa", [q[:, 60:], k, v], grad), expected, strict=True):
        torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    rounded = run("sdpa", [q[:, 60:].bfloat16(), k.bfloat16(), v.bfloat16()], grad)
    assert max(errors(rounded, expected)) < ROUNDING


@pytest.mark.skipif(_flash_missing(64) is not None, reason=f"flash-attn needs {_flash_missing(64)}")
@pytest.mark.parametrize("shape", [shape.values for shape in SHAPES], ids=[shape.id for shape in SHAPES])
def test_flash_differs_by_rounding_alone(shape):
    tensors, grad = inputs(*shape, device="cuda")
    exact = run("sdpa", [x.double() for x in tensors], grad.double())
    found = errors(run("flash", tensors, grad), exact)
    assert max(found) < ROUNDING, found
