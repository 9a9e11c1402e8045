"""What a config costs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mfa_train import config as configs
from mfa_train.budget.plan import attention_flops, make_plan
from tests.conftest import SMALL, VARIANTS


@pytest.mark.parametrize("overrides, expected", [
    (["attention=mha", "attention.num_attention_heads=16", "attention.head_dim=128"], 196_608),
    (["attention=mfa", "attention.num_attention_heads=18", "attention.head_dim=256"], 24_576),
    (["attention=mfa_kr", "attention.num_attention_heads=18", "attention.head_dim=256"], 12_288),
    (["attention=mla", "attention.kv_lora_rank=512", "attention.qk_rope_head_dim=64"], 27_648),
])
def test_kv_bytes_of_the_mfa_papers_shapes(overrides, expected):
    """arXiv 2412.19255, the 7B models: 24 layers, hidden 2048, 16-bit cache; MLA in DeepSeek's own count."""
    config = configs.load(["model=1b", "model.num_hidden_layers=24", "model.hidden_size=2048", *overrides])
    assert make_plan(config)["kv_cache"]["bytes_per_token"] == expected


@pytest.mark.parametrize("attention", VARIANTS)
def test_parameters_and_flops_are_those_of_the_real_model(attention, small_model):
    """FLOPs of a real forward and backward by torch's own counter, which counts both halves of the scores."""
    config = configs.load([f"attention={attention}", *SMALL, "training.sequence_length=32"])
    plan, model = make_plan(config), small_model(attention)
    assert plan["params"]["total"] == sum(parameter.numel() for parameter in model.parameters())

    x = torch.randint(0, 199, (1, 33))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model.train()(x[:, :-1], x[:, 1:]).backward()
    layer = model.model.layers[0].self_attn
    other_half = 3 * len(model.model.layers) * attention_flops(layer, 32) // 2
    assert counter.get_total_flops() / 32 == plan["flops"]["train_per_token"] + other_half
