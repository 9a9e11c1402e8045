"""How weights start, and that it depends on the seed and the parameter's name alone."""

import hashlib
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mfa_train import config as configs
from mfa_train.attention import attention_config
from mfa_train.config import InitializationConfig
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.initialization import BLOCK, EmptyWeights, InitialValues
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


WIDE = (nn.Linear(3 * BLOCK // 64, 100, bias=False), InitializationConfig("normal", 0.02), 1, 2)
"""A matrix of 4.7 blocks."""


def values(start: int, stop: int) -> torch.Tensor:
    InitialValues(*WIDE).read("weight", start, out := torch.empty(stop - start))
    return out


def test_any_stretch_of_a_weight_has_the_values_of_the_whole():
    whole = values(0, WIDE[0].weight.numel())
    for start, stop in ((0, 1), (0, BLOCK), (BLOCK - 3, BLOCK + 14), (5, 3 * BLOCK + 7), (len(whole) - 1, len(whole))):
        assert torch.equal(values(start, stop), whole[start:stop])


def test_values_are_normal_and_no_block_is_like_another():
    whole = values(0, WIDE[0].weight.numel()) / 0.02
    error = len(whole) ** -0.5  # of the mean; of the deviation and the fourth moment: 0.71 and 9.8 times
    assert abs(whole.mean()) < 4 * error and abs(whole.std() - 1) < 4 * 0.71 * error
    assert abs((whole**4).mean() - 3) < 4 * 9.8 * error
    blocks = whole[: 4 * BLOCK].view(4, BLOCK)
    assert (torch.corrcoef(blocks) - torch.eye(4)).abs().max() < 5 * BLOCK**-0.5


def test_a_share_of_a_weight_takes_a_block_beside_it_and_draws_no_more_than_it_touches():
    class Counted(TorchDispatchMode):
        drawn, largest = 0, 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            self.largest = max(self.largest, made.numel())
            self.drawn += made.numel() if "normal_" in str(function) else 0
            return made

    out = torch.empty(BLOCK)
    with Counted() as counted:
        InitialValues(*WIDE).read("weight", 3 * BLOCK // 2, out)
    assert counted.largest == BLOCK and counted.drawn == 2 * BLOCK


def test_draw_1_draws_each_weight_whole_by_its_name():
    found = weights("model.initialization.draw=1")["lm_head.weight"]
    seed = int.from_bytes(hashlib.blake2b(b"1/lm_head.weight", digest_size=7).digest(), "little")
    generator = torch.Generator().manual_seed(seed)
    assert torch.equal(found, torch.empty(found.shape).normal_(0.0, 0.02, generator=generator))
    assert not torch.equal(found, weights()["lm_head.weight"])


def test_draw_2_draws_each_block_by_its_name_and_number():
    """Written out here: every run's start rests on it."""
    seed = int.from_bytes(hashlib.blake2b(b"1/weight/2", digest_size=7).digest(), "little")
    block = torch.empty(2**16).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(values(2 * 2**16, 3 * 2**16), block)


@pytest.mark.parametrize("attention", VARIANTS)
def test_a_model_whose_weights_are_about_to_be_set_draws_nothing(attention):
    config, before = configs.load([*SMALL, f"attention={attention}"]), torch.get_rng_state()
    with EmptyWeights(torch.bfloat16, torch.device("cpu")):
        model = LanguageModel(config.model, attention_config(config.attention))
    assert torch.equal(torch.get_rng_state(), before)
    for name, parameter in build_model(config).named_parameters():
        ours = model.get_parameter(name)
        assert ours.shape == parameter.shape
        if parameter.ndim > 1:
            assert ours.dtype == torch.bfloat16 and not ours.any()
        else:
            assert torch.equal(ours.float(), parameter)
