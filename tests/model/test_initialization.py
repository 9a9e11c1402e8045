"""How weights start, and that it depends on the seed and the parameter's name alone."""

import math

import pytest
import torch

from mfa_train import config as configs
from mfa_train.training.steps.engine import build_model
from tests.conftest import SMALL, VARIANTS


def weights(*overrides: str) -> dict[str, torch.Tensor]:
    return build_model(configs.load([*SMALL, *overrides])).state_dict()


@pytest.mark.parametrize("attention", VARIANTS)
def test_models_that_differ_in_attention_start_from_the_same_rest(attention):
    ours, mha = weights(f"attention={attention}"), weights("attention=mha")
    shared = [name for name in ours if "self_attn" not in name]
    assert len(shared) == 2 + 5 * 2 + 1
    assert all(torch.equal(ours[name], mha[name]) for name in shared)


def test_another_seed_starts_elsewhere():
    assert not torch.equal(weights("seed=1")["lm_head.weight"], weights("seed=2")["lm_head.weight"])


@pytest.mark.parametrize(
    "method, attention_std, first_ffn, last_ffn",
    [
        ("normal", 0.02, 0.02, 0.02),
        ("scaled", 0.02 / math.sqrt(8), 0.02 / math.sqrt(8), 0.02 / math.sqrt(8)),  # GPT-2: sqrt(2·layers)
        (
            "mfa",
            0.02,
            0.02 / math.sqrt(2),
            0.02 / math.sqrt(8),
        ),  # the MFA paper's authors', as public notes tell it: sqrt(2·layer index), from one
        ("zero_output", 0.0, 0.0, 0.0),
    ],
)
def test_output_projections_start_as_the_method_says(method, attention_std, first_ffn, last_ffn):
    found = weights(f"model.initialization.method={method}", "model.num_hidden_layers=4")
    for name, std in (
        ("3.self_attn.o_proj", attention_std),
        ("0.mlp.down_proj", first_ffn),
        ("3.mlp.down_proj", last_ffn),
        ("3.mlp.up_proj", 0.02),
    ):
        assert found[f"model.layers.{name}.weight"].std().item() == pytest.approx(std, rel=0.05)


def test_tpa_factors_start_xavier_uniform():
    """arXiv 2501.06425: factors viewed as (input, heads, rank), whose fans are (rank·heads) and (rank·input)."""
    found = weights("attention=tpa")["model.layers.0.self_attn.W_A_q.weight"]  # 4 heads, rank 6, hidden 64
    bound = math.sqrt(6 / (6 * (4 + 64)))
    assert 0.95 * bound < found.abs().max().item() <= bound
