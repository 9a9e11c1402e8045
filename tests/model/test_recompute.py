"""What activation checkpointing changes: memory and time, and not one bit of a loss or a gradient."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import VARIANTS

TOKENS = torch.arange(128).view(2, 64) % 50


def step(model, which: str) -> tuple[list[torch.Tensor], int]:
    """The loss and all gradients, and the FLOPs that were multiplied for them."""
    model.model.activation_checkpointing = which
    model.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False) as counted:
        loss = model(TOKENS, TOKENS.roll(1, 1))
        loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())], counted.get_total_flops()


@pytest.mark.parametrize("kernel", ["sdpa", "tiled"])
@pytest.mark.parametrize("attention", VARIANTS)
def test_no_bit_of_a_loss_or_a_gradient_depends_on_what_is_recomputed(attention, kernel, small_model):
    """In 16 bit, where tiles are taken."""
    model = small_model(attention).bfloat16()
    for layer in model.model.layers:
        layer.self_attn.kernel = kernel
    plain, _ = step(model, "none")
    for which in ("selective", "full"):
        found, _ = step(model, which)
        assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True)), which


@pytest.mark.parametrize("attention", ["mha", "mfa", "mla"])
def test_selective_multiplies_nothing_again_and_full_the_layers(attention, small_model):
    model = small_model(attention)
    for layer in model.model.layers:
        layer.self_attn.kernel = "sdpa"
    with FlopCounterMode(display=False) as layers, torch.no_grad():
        model.model(TOKENS)
    flops = {which: step(model, which)[1] for which in ("none", "selective", "full")}
    assert flops["selective"] == flops["none"]
    assert flops["none"] < flops["full"] <= flops["none"] + layers.get_total_flops()
