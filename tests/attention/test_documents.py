"""Documents in a window are trained as if each stood alone: the unmasked model on them one by one is the reference."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter

from mfa_train.attention.kernels.causal import _flash_missing, causal_attention
from mfa_train.data.reading.documents import find_documents
from tests.attention.test_kernels import ROUNDING, errors, inputs
from tests.conftest import VARIANTS

SEPARATOR = 2
STARTS = [(0, 7, 90), (), (1, 2, 75)]
"""Where separators stand in each window: at its start, nowhere, side by side."""


def windows(starts=STARTS, length: int = 121) -> np.ndarray:
    tokens = np.random.default_rng(0).integers(3, 199, (len(starts), length))
    for window, places in zip(tokens, starts):
        window[list(places)] = SEPARATOR
    return tokens


def documents_of(tokens: np.ndarray) -> list[np.ndarray]:
    """Inputs and, one further, targets of each document by itself."""
    parts = []
    for window in tokens:
        starts = sorted({0, *np.flatnonzero(window[:-1] == SEPARATOR).tolist()})
        parts += [window[start : end + 1] for start, end in zip(starts, [*starts[1:], len(window) - 1])]
    return parts


def losses(model, tokens: np.ndarray, documents=None) -> torch.Tensor:
    """Of each target."""
    tokens = torch.from_numpy(np.atleast_2d(tokens))
    logits = model(tokens[:, :-1], documents=documents)
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")


def with_gradients(model, per_token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses, and the gradient of their sum."""
    model.zero_grad()
    per_token.sum().backward()
    return per_token.detach(), torch.cat([parameter.grad.flatten().float() for parameter in model.parameters()])


def in_one_window(model, tokens: np.ndarray):
    return with_gradients(model, losses(model, tokens, find_documents(tokens[:, :-1], SEPARATOR)))


def one_by_one(model, tokens: np.ndarray):
    return with_gradients(model, torch.cat([losses(model, part) for part in documents_of(tokens)]))


def test_a_document_starts_at_its_separator_and_at_the_windows_start():
    found = find_documents(np.array([[5, 6, 2, 7, 8], [2, 9, 9, 2, 2]]), SEPARATOR)
    assert found.positions.tolist() == [[0, 1, 0, 1, 2], [0, 1, 2, 0, 0]]
    assert found.cu_seqlens.tolist() == [0, 2, 5, 8, 9, 10] and found.cu_seqlens.dtype == torch.int32
    assert found.max_length == 3


@pytest.mark.parametrize("attention", VARIANTS)
def test_documents_in_a_window_are_trained_as_if_each_stood_alone(attention, small_model):
    model, tokens = small_model(attention), windows()
    (packed, packed_grad), (alone, alone_grad) = in_one_window(model, tokens), one_by_one(model, tokens)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    assert (packed_grad - alone_grad).norm() < 1e-5 * alone_grad.norm()
    crossing, crossing_grad = with_gradients(model, losses(model, tokens))
    assert (crossing - alone).abs().max() > 0.1
    assert (crossing_grad - alone_grad).norm() > 0.01 * alone_grad.norm()


@pytest.mark.parametrize("attention", ["gqa", "mla", "mfa"])
def test_in_bf16_they_differ_by_rounding(attention, small_model):
    model, tokens = small_model(attention, "attention.kernel=tiled").bfloat16(), windows()
    for packed, alone in zip(in_one_window(model, tokens), one_by_one(model, tokens)):
        assert (packed - alone).norm() < 2 * ROUNDING * alone.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_windows_without_a_separator_are_trained_as_without_a_mask_bit_for_bit(dtype, small_model):
    model, tokens = small_model("mla", "attention.kernel=tiled").to(dtype), windows([(0,), (), ()])
    for masked, plain in zip(in_one_window(model, tokens), with_gradients(model, losses(model, tokens))):
        assert torch.equal(masked, plain)


@pytest.mark.parametrize(
    "kernel",
    [
        "sdpa",
        "tiled",
        pytest.param(
            "flash",
            marks=pytest.mark.skipif(_flash_missing(64) is not None, reason=f"flash-attn needs {_flash_missing(64)}"),
        ),
    ],
)
def test_kernels_stay_within_documents(kernel):
    device = "cuda" if kernel == "flash" else "cpu"
    tensors, grad = inputs(3, 120, 6, 2, 48, 32, device)
    tokens = windows()
    documents = find_documents(tokens[:, :-1], SEPARATOR).to(torch.device(device))

    def run(tensors, grad, attention):
        leaves = [x.detach().clone().requires_grad_() for x in tensors]
        out = attention(*leaves)
        out.backward(grad)
        return [out.detach(), *(x.grad for x in leaves)]

    def document_by_document(*qkv):
        lengths = [len(part) - 1 for part in documents_of(tokens)]
        parts = zip(*(x.flatten(0, 1).split(lengths) for x in qkv))
        outputs = [causal_attention(*(x.unsqueeze(0) for x in part), 48**-0.5, "sdpa")[0] for part in parts]
        return torch.cat(outputs).unflatten(0, (3, 120))

    exact = run([x.double() for x in tensors], grad.double(), document_by_document)
    found = errors(run(tensors, grad, lambda *qkv: causal_attention(*qkv, 48**-0.5, kernel, documents)), exact)
    assert max(found) < ROUNDING, found


def test_new_documents_compile_nothing_anew(small_model):
    torch.compiler.reset()
    model, graphs = small_model("mfa"), CompileCounter()
    model.model.activation_checkpointing = "full"
    for layer in model.model.layers:
        layer.compile(backend=graphs)
    reference, after = small_model("mfa"), []
    for starts in ([(10,), ()], [(50, 60), (70,)], [(), ()], [(5, 10, 20, 30), (99,)], [(1,), (2, 3)]):
        tokens = windows(starts)
        compiled, plain = in_one_window(model, tokens), in_one_window(reference, tokens)
        torch.testing.assert_close(compiled[0], plain[0], rtol=1e-5, atol=1e-5)
        after.append(graphs.frame_count)
    assert 0 < after[0] == after[-1], after
