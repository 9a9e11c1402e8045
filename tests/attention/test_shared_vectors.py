"""Attentions whose values are keys too: GTA and DeepSeek-V4's, and the sinks that the latter has."""

import pytest
import torch
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as theirs
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config

from mfa_train import config as configs
from mfa_train.attention import attention_config
from mfa_train.attention.kernels import causal, sdpa
from mfa_train.attention.kernels.causal import causal_attention, planned_kernel
from mfa_train.errors import ConfigError
from tests.attention.test_kernels import ROUNDING, errors
from tests.attention.test_references import causal_softmax, rotation
from tests.conftest import SMALL

V4 = [f"attention.{key}" for key in ("head_dim=32", "qk_rope_head_dim=8", "q_lora_rank=24", "o_lora_rank=12")]


def test_gta_equals_its_definition(small_model):
    """arXiv 2505.21487: of each group's state the whole is the value and the first half the key's first
    half, beside one rotated half-key of all groups."""
    model = small_model("gta")
    layer, tokens, dim, half = model.model.layers[0].self_attn, 9, 16, 8
    x = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(2))
    turns = torch.stack([rotation(half, t) for t in range(tokens)])
    outputs = []
    with torch.no_grad():
        rotated = torch.einsum("tij,tj->ti", turns, x @ layer.W_rope_k.weight.t())
        for head in range(4):
            group = head // 2
            q = x @ layer.q_proj.weight[head * dim : (head + 1) * dim].t()
            state = x @ layer.kv_proj.weight[group * dim : (group + 1) * dim].t()
            q = torch.cat((q[:, :half], torch.einsum("tij,tj->ti", turns, q[:, half:])), dim=-1)
            k = torch.cat((state[:, :half], rotated), dim=-1)
            outputs.append(causal_softmax(q @ k.t() / dim**0.5) @ state)
        expected = torch.cat(outputs, dim=-1) @ layer.o_proj.weight.t()
        found = layer(x[None], model.model.rope(torch.arange(tokens)))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sinks, groups", [(True, 2), (False, 1)])
def test_deepseek_v4_equals_transformers_full_causal_attention(sinks, groups, small_model):
    """Without sinks ours are theirs at -inf."""
    config = DeepseekV4Config(
        hidden_size=64,
        num_attention_heads=4,
        head_dim=32,
        qk_rope_head_dim=8,
        q_lora_rank=24,
        o_groups=groups,
        o_lora_rank=12,
        num_hidden_layers=1,
        layer_types=["sliding_attention"],
        attn_implementation="eager",
    )
    model = small_model("deepseek_v4", *V4, f"attention.sinks={sinks}", f"attention.o_groups={groups}")
    ours, reference = model.model.layers[0].self_attn, theirs.DeepseekV4Attention(config, 0)
    weights = ours.state_dict() if sinks else {**ours.state_dict(), "sinks": torch.full((4,), -torch.inf)}
    reference.load_state_dict(weights, strict=True)
    x, positions = torch.randn(2, 21, 64, generator=torch.Generator().manual_seed(2)), torch.arange(7, 28)
    mask = torch.full((21, 21), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        turns = {"main": theirs.DeepseekV4RotaryEmbedding(config)(x, positions[None], layer_type="main")}
        expected, _ = reference.eval()(x, turns, positions[None], mask)
        found = ours(x, model.model.rope(positions))
    assert (found - expected).abs().max() < 1e-5 < 1e-2 < expected.abs().max()


@pytest.mark.parametrize("other", ["rope_interleave=true", "rope_interleave=false", "rope_scaling=yarn"])
def test_a_token_that_sees_itself_alone_reads_its_value_as_if_nothing_were_rotated(other, small_model):
    yarn = "{rope_type: yarn, factor: 8.0, original_max_position_embeddings: 64}"
    model = small_model("deepseek_v4", *V4, "attention.sinks=false", f"attention.{other.replace('yarn', yarn)}")
    layer, x = model.model.layers[0].self_attn, torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        value = layer.kv_norm(layer.kv_proj(x))[0, 0]
        of_group = torch.cat((value, value)) @ layer.o_a_proj.weight.view(2, 12, 64).transpose(1, 2)
        expected = layer.o_b_proj(of_group.flatten())
        found = layer(x, model.model.rope(torch.tensor([41])))[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_outputs_that_start_at_zero_do_so_behind_a_low_rank_projection_too(small_model):
    layer = small_model("deepseek_v4", "model.initialization.method=zero_output").model.layers[0].self_attn
    assert not layer.o_b_proj.weight.any() and layer.o_a_proj.weight.all()


def dense(q, k, v, scale, sinks):
    """Softmax over the keys and one more score, written out; q, k, v (batch, tokens, heads, …) of any key heads."""
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], dim=2) for x in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * scale
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + k.shape[1] - q.shape[1])
    exp = scores.masked_fill(hidden, -torch.inf).exp()
    return torch.einsum("bhij,bjhd->bihd", exp / (exp.sum(-1, keepdim=True) + sinks.exp().view(-1, 1, 1)), v)


def widened(q, k, v, scale, kernel, sinks):
    """What flash-attn is given, which is causal as SDPA is."""
    return sdpa.sdpa_attention(*causal._with_sinks(q, k, v, scale, sinks), scale)


ROUTES = [
    pytest.param(causal_attention, "sdpa", torch.float64, 1e-12, 150, id="blocks"),
    pytest.param(causal_attention, "sdpa", torch.float64, 1e-12, 20, id="blocks behind a cache"),
    pytest.param(widened, "", torch.float64, 1e-12, 150, id="as flash"),
    pytest.param(causal_attention, "tiled", torch.bfloat16, ROUNDING, 150, id="tiled"),
    pytest.param(causal_attention, "sdpa", torch.bfloat16, ROUNDING, 150, id="16 bit"),
]


@pytest.mark.parametrize("lowest", [-1.5, -torch.inf])
@pytest.mark.parametrize("attention, kernel, dtype, tolerance, queries", ROUTES)
def test_sinks_take_part_in_every_softmax_without_a_value(
    attention, kernel, dtype, tolerance, queries, lowest, monkeypatch
):
    monkeypatch.setitem(sdpa.SCORES_AT_ONCE, "cpu", 2 * 6 * 150 * 64)  # three blocks of queries
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, queries, 6, 32), (2, 150, 2, 32), (2, 150, 2, 24))
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    inputs.append(torch.tensor([lowest, 0.5, 2.0, 0.0, -1.0, 4.0]).to(dtype))
    grad = torch.randn(2, queries, 6, 24, generator=generator).to(dtype)

    def run(attention, tensors, *kernel):
        leaves = [x.clone().requires_grad_() for x in tensors]
        out = attention(*leaves[:3], 32**-0.5, *kernel, sinks=leaves[3])
        out.backward(grad.to(out.dtype))
        return [out.detach(), *(x.grad for x in leaves)]

    exact = run(dense, [x.double() for x in inputs])
    found = errors(run(attention, inputs, kernel), exact)
    assert all(error < tolerance for error in found), found


@pytest.mark.parametrize(
    "device, dtype, head_dim, kernel",
    [
        ("cpu", torch.bfloat16, 64, "tiled"),
        ("cpu", torch.float32, 64, "math"),
        ("cuda", torch.bfloat16, 248, "flash"),
        ("cuda", torch.bfloat16, 256, "math"),
    ],
)
def test_the_plan_knows_which_kernels_take_sinks(device, dtype, head_dim, kernel):
    q = torch.empty(1, 1, 4, head_dim, dtype=dtype, device="meta")
    assert planned_kernel(device, "auto", q, q[:, :, :1], q[:, :, :1], 512, 512, sinks=q.new_empty(4)) == kernel


@pytest.mark.parametrize(
    "words, told",
    [
        (["gta", "head_dim=33"], "attention.head_dim=33: .*: type attention.head_dim=36"),
        (["gta", "head_dim=34"], "attention.head_dim=34: .*: type attention.head_dim=36"),
        (["gta", "num_key_value_heads=3"], "num_key_value_heads=3 does not divide .*: type .*num_key_value_heads=2"),
        (["deepseek_v4", "qk_rope_head_dim=66"], "qk_rope_head_dim=66 is more than .*: type .*qk_rope_head_dim=64"),
        (["deepseek_v4", "qk_rope_head_dim=7"], "qk_rope_head_dim=7: RoPE .*: type attention.qk_rope_head_dim=8"),
        (
            ["deepseek_v4", "o_groups=3"],
            "o_groups=3 does not divide .*num_attention_heads=4: type attention.o_groups=2",
        ),
        (["deepseek_v4", "sinks=soft"], "attention.sinks=soft"),
    ],
)
def test_what_cannot_be_is_told_with_what_to_type(words, told):
    name, *keys = words
    with pytest.raises(ConfigError, match=told):
        attention_config(configs.load([f"attention={name}", *SMALL, *(f"attention.{key}" for key in keys)]).attention)
