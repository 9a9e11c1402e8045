"""Attentions that read one wide head as it is: MFA's query without a rank, the values of MFA-KR, FPBA."""

import re

import pytest
import torch
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextAttention, Gemma4TextRotaryEmbedding

from mfa_train import config as configs
from mfa_train.attention import attention_config
from mfa_train.attention.base import Attention
from mfa_train.budget.shape import measure
from mfa_train.errors import ConfigError
from mfa_train.model.decoder import LanguageModel
from tests.attention.test_references import causal_softmax, rotation
from tests.conftest import SMALL

VALUES = ("gated", "key", "projection", "residual", "key_norm")
TOKENS = 11


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 64, generator=torch.Generator().manual_seed(7))


def head_by_head(layer: Attention, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The layer's output (tokens, hidden) where every head has a dense query of its own and reads keys k and values v
    (tokens, head_dim): q_i R_(i-j) k_j / sqrt(head_dim), one pair of tokens at a time."""
    dim, out = layer.qk_head_dim, torch.zeros(len(x), 64)
    turns = [rotation(dim, position) for position in range(len(x))]
    for head in range(layer.num_attention_heads):
        rows = slice(head * dim, (head + 1) * dim)
        q = x @ layer.q_proj.weight[rows].t()
        scores = torch.tensor([[turns[i] @ q[i] @ (turns[j] @ k[j]) for j in range(len(x))] for i in range(len(x))])
        out += causal_softmax(scores / dim**0.5) @ v @ layer.o_proj.weight[:, rows].t()
    return out


@pytest.mark.parametrize("value", VALUES)
def test_each_value_is_made_of_the_unrotated_key_as_written(value, small_model):
    """arXiv 2412.19255, section 3.3 and its steps there; key_norm: Gemma 4."""
    model = small_model("mfa_kr", f"attention.value={value}", "attention.q_lora_rank=null")
    layer, x = model.model.layers[0].self_attn, inputs(TOKENS)
    with torch.no_grad():
        k = x @ layer.k_proj.weight.t()
        n_k = k @ layer.v_proj.weight.t() if hasattr(layer, "v_proj") else None
        v = {
            "gated": lambda: k + layer.alpha * n_k,
            "key": lambda: k,
            "projection": lambda: n_k,
            "residual": lambda: k + n_k,
            "key_norm": lambda: k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt(),
        }[value]()
        found = layer(x[None], model.model.rope(torch.arange(TOKENS)))[0]
        torch.testing.assert_close(found, head_by_head(layer, x, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", VALUES)
def test_every_parameter_of_a_value_is_trained(value, small_model):
    model, x = small_model("mfa_kr", f"attention.value={value}"), torch.arange(26).view(2, 13)
    model(x[:, :-1], x[:, 1:]).backward()
    assert not [name for name, one in model.named_parameters() if one.grad is None or not one.grad.abs().max() > 0]


def test_key_norm_equals_transformers_gemma4_with_one_key_that_is_its_value():
    config = Gemma4TextConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        global_head_dim=32,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        layer_types=["full_attention"],
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
        attn_implementation="eager",
    )
    theirs, x, index = Gemma4TextAttention(config, 0), inputs(2, TOKENS), torch.arange(TOKENS)
    generator = torch.Generator().manual_seed(8)
    for weight in theirs.parameters():
        weight.data = (weight.ndim == 1) + 0.15 * torch.randn(weight.shape, generator=generator)
    words = ["attention=mfa_kr", "attention.value=key_norm", "attention.q_lora_rank=null", "attention.qk_norm=true"]
    ours = configs.load([*words, *SMALL])
    model = LanguageModel(ours.model, attention_config(ours.attention))
    layer, weights = model.model.layers[0].self_attn, theirs.state_dict()
    weights["q_norm.weight"] = weights["q_norm.weight"] * 32**0.5  # they don't divide scores by sqrt(head_dim)
    layer.load_state_dict(weights, strict=True)
    causal = torch.full((TOKENS, TOKENS), -torch.inf).triu(1)[None, None]
    turns = Gemma4TextRotaryEmbedding(config)(x, index[None], "full_attention")
    with torch.no_grad():
        expected, _ = theirs(x, turns, causal, {})
        torch.testing.assert_close(layer(x, model.model.rope(index)), expected, rtol=1e-5, atol=1e-5)


def test_a_full_rank_query_is_the_low_rank_one_multiplied_out(small_model):
    low = small_model("mfa", "attention.inter_norm=false").model.layers[0].self_attn
    full, x = small_model("mfa", "attention.q_lora_rank=null").model, inputs(1, TOKENS)
    layer, positions = full.layers[0].self_attn, full.rope(torch.arange(TOKENS))
    kept = {name: weight for name, weight in low.state_dict().items() if name != "wq.weight"}
    layer.load_state_dict({**kept, "q_proj.weight": low.wq.weight @ low.q_proj.weight}, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, positions), low(x, positions), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 3])
def test_fpba_equals_the_papers_bilinear_form(heads, small_model):
    """arXiv 2412.19255, section 2: head c scores x_i W_c x_jᵀ / sqrt(d), W_c d × d, and sums x_j U_c; RoPE over d."""
    model = small_model("fpba", f"attention.num_attention_heads={heads}")
    layer, x = model.model.layers[0].self_attn, inputs(TOKENS)
    with torch.no_grad():
        found = layer(x[None], model.model.rope(torch.arange(TOKENS)))[0]
        torch.testing.assert_close(found, head_by_head(layer, x, x, x), rtol=1e-4, atol=1e-5)


def test_fpba_as_wide_as_two_of_mfas_heads_has_mfas_cache():
    fpba, mfa = (
        configs.load([f"attention={name}", *SMALL, "model.hidden_size=64", *width])
        for name, width in (("fpba", []), ("mfa", ["attention.head_dim=32"]))
    )
    values = [measure(one.model, one.attention).cache_values_per_layer for one in (fpba, mfa)]
    assert values == [64, 64]


CASES = [
    *(["mfa_kr", f"attention.value={value}"] for value in VALUES),
    ["mfa_kr", "attention.value=key_norm", "attention.qk_norm=true"],
    ["mfa", "attention.q_lora_rank=null"],
    ["fpba"],
    ["fpba", "attention.q_lora_rank=24", "attention.qk_norm=true"],
]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_rows_of_any_length_decode_what_each_alone_would_be(words, small_model):
    """Blocks of three queries at the ends of rows of 11 and 6 tokens, in float64, against the causal forward."""
    model = small_model(*words).double()
    layer, rope, x = model.model.layers[0].self_attn, model.model.rope, inputs(2, TOKENS).double()
    lengths = torch.tensor([TOKENS, 6])
    ends = [slice(length - 3, length) for length in lengths.tolist()]
    everywhere = rope(torch.arange(TOKENS))
    newest = everywhere.at(torch.stack([torch.arange(TOKENS)[end] for end in ends]))
    last = torch.stack([row[end] for row, end in zip(x, ends)])
    with torch.no_grad():
        entry = layer.cache_entry(x, everywhere)
        o = layer.attend(layer.query(last, newest), *entry, positions=everywhere, lengths=lengths)
        found = layer.output(o, last, newest)
        for row, end, one in zip(x, ends, found):
            alone = layer(row[None, : end.stop], everywhere.between(0, end.stop))[0, end]
            torch.testing.assert_close(one, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", VALUES)
def test_n_is_multiplied_once_a_head_however_many_tokens_are_cached(value):
    config = configs.load(["attention=mfa_kr", f"attention.value={value}", *SMALL])
    decoding = measure(config.model, config.attention).decoding
    assert decoding.per_token == 2 * 4 * (32 + 32)
    projections = 64 * 32 + 32 * 4 * 32 + 64 * 32 + 4 * 32 * 64  # q_proj, wq, k_proj, o_proj
    n = 4 * 32 * 32 if value in ("gated", "projection", "residual") else 0
    assert decoding.linear == 2 * (projections + n)


@pytest.mark.parametrize(
    "words, told",
    [
        (
            "attention=mfa attention.q_lora_rank=null attention.latent_scale=true",
            "attention.q_lora_rank=null has none: type attention.q_lora_rank=64, or attention.latent_scale=false",
        ),
        (
            "attention=mfa_kr attention.value=twice",
            "attention.value=twice: expected one of gated, key, projection, residual, key_norm",
        ),
        ("attention=fpba model.hidden_size=63", "RoPE turns pairs of dimensions: type model.hidden_size=64"),
        ("attention=fpba attention.head_dim=64", "type attention.head_dim=192, or nothing"),
        ("attention=fpba attention.latent_scale=true", "attention.q_lora_rank=null has none"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(words, told):
    with pytest.raises(ConfigError, match=re.escape(told)) as error:
        config = configs.load(["model=nano", *words.split()])
        measure(config.model, config.attention)
    assert "\n" not in str(error.value)
