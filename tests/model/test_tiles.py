"""What tiles of the feed-forward change: memory and time, and of a gradient the rounding of its sum."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.feed_forward.family.dense import Dense
from mfa_train.model.tiles import compute_in_tiles

TOKENS = torch.arange(128).view(2, 64) % 50
TILE = 50
"""The last one is shorter, and the second has tokens of both sequences."""


def step(model, which: str) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """The loss, all gradients, and the FLOPs that were multiplied for them."""
    model.model.activation_checkpointing = which
    with FlopCounterMode(display=False) as counted:
        loss = model(TOKENS, TOKENS.roll(1, 1))
        loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()], counted.get_total_flops()


@pytest.mark.parametrize("which", ["none", "selective", "full"])
def test_tiles_give_the_same_loss_and_gradients_for_one_more_product_at_most(which, small_model):
    """A layer that is computed again ends before its last product, and its tiles have that too."""
    whole, tiled = small_model("mfa"), small_model("mfa")
    (first, *_) = found = compute_in_tiles(tiled, TILE)
    assert len(found) == 2
    loss, gradients, flops = step(whole, which)
    given: list[object] = []
    first.up_proj.weight.register_post_accumulate_grad_hook(given.append)
    loss_in_tiles, gradients_in_tiles, flops_in_tiles = step(tiled, which)
    torch.testing.assert_close(loss_in_tiles, loss, rtol=1e-6, atol=0)
    for ours, theirs in zip(gradients_in_tiles, gradients, strict=True):
        assert float((ours - theirs).norm()) <= 1e-6 * float(theirs.norm())
    assert len(given) == 1  # who waits for a gradient gets one
    product = 2 * TOKENS.numel() * first.up_proj.weight.numel()
    assert flops_in_tiles - flops == 2 * product * (1 if which == "full" else 3)
    with torch.no_grad():
        torch.testing.assert_close(tiled(TOKENS), whole(TOKENS), rtol=1e-5, atol=1e-5)


def test_sums_over_many_tiles_are_float32():
    """torch.utils.checkpoint of each tile adds them up in the weights' own type."""
    torch.manual_seed(1)
    exact, rows = Dense(32, 64).double(), torch.randn(1, 2048, 32, dtype=torch.double)

    def error(run, module) -> float:
        x = rows.to(next(module.parameters()).dtype)
        (run(module, x).float() * rows.float()).sum().backward()
        return float((module.up_proj.weight.grad.double() - exact.up_proj.weight.grad).norm())

    def in_checkpoints(module, x):
        return torch.cat([checkpoint(module, part, use_reentrant=False)[0] for part in x.split(8, dim=1)], dim=1)

    (exact(rows)[0] * rows).sum().backward()
    whole, ours, theirs = (copy.deepcopy(exact).bfloat16() for _ in range(3))
    for module in (whole, ours, theirs):
        module.zero_grad()
    compute_in_tiles(ours, 8)
    once = error(lambda module, x: module(x)[0], whole)
    assert error(lambda module, x: module(x)[0], ours) <= 1.1 * once
    assert error(in_checkpoints, theirs) > 2 * once


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["feed_forward=experts", "training.mlp_tile_tokens=64"], "training.mlp_tile_tokens=64 with feed_forward=exp"),
        (["training.mlp_tile_tokens=0"], "training.mlp_tile_tokens=0: expected a whole number of at least 1"),
    ],
)
def test_tiles_are_refused_where_they_cannot_be(overrides, told):
    with pytest.raises(ConfigError, match=f"^{told}"):
        configs.load(overrides)
