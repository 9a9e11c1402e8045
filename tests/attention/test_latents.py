"""Attentions whose cache is a latent, against their papers' equations written head by head."""

from itertools import product

import pytest
import torch

from mfa_train import config as configs
from mfa_train.attention import Capacity, attention_config
from mfa_train.attention.kernels.causal import causal_attention
from mfa_train.budget.shape import measure
from mfa_train.errors import ConfigError
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.generation import generate
from mfa_train.training.steps.engine import build_model
from mfa_train.training.steps.optimizer import make_optimizer
from tests.attention.test_references import causal_softmax, rotation
from tests.conftest import SMALL

SHAPE = (
    *("attention.q_lora_rank=24", "attention.kv_lora_rank=32", "attention.qk_nope_head_dim=16"),
    *("attention.qk_rope_head_dim=8", "attention.v_head_dim=12", "attention.rope_interleave=false"),
)
"""Every width another."""
BLOCK_OF = {
    ("mla", ""): (1, 1, lambda branch, head: 0),
    ("gla", "attention.latent_groups=2"): (2, 1, lambda branch, head: head // 2),
    ("gla", "attention.latent_groups=4"): (4, 1, lambda branch, head: head),
    ("mlra", "attention.branches=2"): (4, 2, lambda branch, head: 2 * branch + head // 2),
    ("mlra", "attention.branches=4"): (4, 4, lambda branch, head: branch),
}
"""Of a variant: the blocks of its latent, its branches, and which block makes a head's key in a branch."""
VARIANTS = pytest.mark.parametrize("variant", BLOCK_OF, ids=lambda variant: "".join(variant).replace("attention", ""))


def made(small_model, variant: tuple[str, str], *overrides: str) -> LanguageModel:
    return small_model(variant[0], *SHAPE, *filter(None, [variant[1]]), *overrides)


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float, scale: bool) -> torch.Tensor:
    factor = (64 / x.shape[-1]) ** 0.5 if scale else 1.0
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight * factor


def turned(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([rotation(8, position) @ row for position, row in enumerate(x)])


@pytest.mark.parametrize("scale", [False, True])
@VARIANTS
def test_equals_its_papers_equations(variant, scale, small_model):
    """MLA: arXiv 2405.04434, equations 37-47. GLA: arXiv 2505.21487, section 3.3. MLRA: arXiv 2603.02188, with its
    scale of latents. Weights stand under the names of DeepSeek-V3 and of MLRA's code."""
    gate = f"attention.output_gate={'element' if scale else 'none'}"
    overrides = (f"attention.latent_scale={str(scale).lower()}", "attention.latent_norm_eps=0.01", gate)
    model = made(small_model, variant, *overrides)
    layer, tokens = model.model.layers[0].self_attn, 9
    weights = {name: weight.detach() for name, weight in layer.state_dict().items()}
    blocks, branches, block_of = BLOCK_OF[variant]
    rank = 32 // blocks
    if variant[0] == "mlra":
        norms = [weights[f"kv_a_layernorms.{block}.weight"] for block in range(blocks)]
        ups = weights["kv_b_proj"].transpose(1, 2)
    else:
        norms = weights["kv_a_layernorm.weight"].split(rank)
        ups = weights["kv_b_proj.weight"].view(blocks, -1, rank)

    x = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(7))
    down = x @ weights["kv_a_proj_with_mqa.weight"].t()
    latents = [normed(c, norm, 0.01, scale) for c, norm in zip(down[:, :32].split(rank, dim=1), norms)]
    query_latent = normed(x @ weights["q_a_proj.weight"].t(), weights["q_a_layernorm.weight"], 0.01, scale)
    expected = torch.zeros(tokens, 64)
    for head in range(4):
        q = query_latent @ weights["q_b_proj.weight"][head * 24 : (head + 1) * 24].t()
        out = torch.zeros(tokens, 12)
        for branch in range(branches):
            block = block_of(branch, head)
            heads_of_block = [other for other in range(4) if block_of(branch, other) == block]
            place = 28 * heads_of_block.index(head)
            key_value = latents[block] @ ups[block][place : place + 28].t()
            scores = q[:, :16] @ key_value[:, :16].t() + turned(q[:, 16:]) @ turned(down[:, 32:]).t()
            out += causal_softmax(scores / 24**0.5) @ key_value[:, 16:] / branches**0.5
        columns = slice(head * 12, (head + 1) * 12)
        if scale:
            out = out * (x @ weights["g_proj.weight"][columns].t()).sigmoid()
        expected += out @ weights["o_proj.weight"][:, columns].t()
    with torch.no_grad():
        found = layer(x[None], model.model.rope(torch.arange(tokens)))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gla_of_one_group_is_mla_to_the_bit(small_model):
    models = [small_model("mla"), small_model("gla", "attention.latent_groups=1")]
    x = torch.randint(0, 199, (2, 24), generator=torch.Generator().manual_seed(0))
    for model in models:
        model(x[:, :-1], x[:, 1:]).backward()
    (of_mla, of_gla) = (dict(model.named_parameters()) for model in models)
    assert list(of_mla) == list(of_gla)
    for name, weight in of_mla.items():
        assert torch.equal(weight, of_gla[name]) and torch.equal(weight.grad, of_gla[name].grad), name


@pytest.mark.parametrize("size, rank", [("nano", None), ("350m", 768)])
def test_the_default_query_has_a_rank_where_that_compresses(size, rank):
    """12 · head_dim, DeepSeek-V3's proportion, below the hidden size: 192 and 1024."""
    found = [configs.load([f"attention={name}", f"model={size}"]).attention for name in ("mla", "gla", "mlra")]
    assert [attention["q_lora_rank"] for attention in found] == [rank] * 3


def test_gla_takes_weights_that_number_its_blocks(small_model):
    """As the MLRA paper's code names GLA-2's."""
    model, other = small_model("gla"), small_model("gla", "seed=5")
    weights = model.state_dict()
    for name in [name for name in weights if "kv_a_layernorm" in name or "kv_b_proj" in name]:
        for block, rows in enumerate(weights.pop(name).chunk(2)):
            weights[name.replace(".weight", f"_{block + 1}.weight")] = rows
    other.load_state_dict(weights, strict=True)
    assert all(weight.equal(other.state_dict()[name]) for name, weight in model.state_dict().items())


@VARIANTS
def test_attending_over_latents_equals_attending_over_keys_and_values(variant, small_model):
    """One query and a block of them, with rows of one length and of different ones."""
    model = made(small_model, variant).double()
    layer, generator = model.model.layers[0].self_attn, torch.Generator().manual_seed(1)
    x, positions = torch.randn(3, 11, 64, dtype=torch.float64, generator=generator), model.model.rope(torch.arange(11))
    with torch.no_grad():
        entry, q = layer.cache_entry(x, positions), layer.query(x.flip(1), positions)
        k, v = layer.keys_values(*entry, positions=positions)
        for queries, lengths in product((1, 3), (None, torch.tensor([6, 11, 3]))):
            found = layer.attend(q[:, :queries], *entry, positions=positions, lengths=lengths)
            for row, length in enumerate([11] * 3 if lengths is None else lengths.tolist()):
                one = slice(row, row + 1)
                alone = causal_attention(q[one, :queries], k[one, :length], v[one, :length], layer.scale, "sdpa")
                torch.testing.assert_close(found[one], alone, rtol=1e-10, atol=1e-12)


@VARIANTS
def test_text_is_the_same_where_a_modules_weights_are_whole_in_its_own_forward_alone(variant, small_model):
    """As ZeRO 3 shards them."""
    model, prompt = made(small_model, variant), torch.tensor([[5, 6, 7]])
    expected = generate(model, prompt, 8, temperature=0)

    def shard(module: torch.nn.Module, *_) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.whole, parameter.data = parameter.data, torch.empty(0)

    def gather(module: torch.nn.Module, *_) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.whole

    for module in model.modules():
        shard(module)
        module.register_forward_pre_hook(gather)
        module.register_forward_hook(shard)
    assert torch.equal(generate(model, prompt, 8, temperature=0), expected)


@VARIANTS
def test_decoding_and_capacity_count_blocks_and_branches(variant):
    """Of each cached token every head of every branch meets its block twice and the rotated key once; its scores have
    at most the block's rank, and all heads look in the whole latent."""
    blocks, branches, _ = BLOCK_OF[variant]
    config = configs.load([f"attention={variant[0]}", *SMALL, *SHAPE, *filter(None, [variant[1]])])
    shape = measure(config.model, config.attention)
    assert shape.cache_values_per_layer == 32 + 8
    assert shape.decode_attention_flops(100, "exact") == 2 * 100 * 2 * branches * 4 * (2 * 32 // blocks + 8)
    assert shape.capacity == Capacity(branches * 4 * min(16, 32 // blocks), 32)


def test_mlras_stacked_matrices_start_and_decay_as_matrices():
    config = configs.load(["attention=mlra", *SMALL, "model.initialization.std=0.5"])
    model = build_model(config)
    stacked = model.model.layers[0].self_attn.kv_b_proj
    assert stacked.ndim == 3 and stacked.std().item() == pytest.approx(0.5, rel=0.05)
    (matrices,) = (group for group in make_optimizer(model, config).param_groups if group["weight_decay"])
    assert any(parameter is stacked for parameter in matrices["params"])


@pytest.mark.parametrize(
    "overrides, told",
    [
        ("gla attention.latent_groups=3", "latent_groups=3 does not divide attention.num_attention_heads=4: type "),
        ("gla attention.latent_groups=4 attention.kv_lora_rank=30", "=4 does not divide attention.kv_lora_rank=30"),
        ("mlra attention.branches=3", "attention.branches=3: expected 2 or 4: type attention.branches=4"),
        ("mlra attention.kv_lora_rank=30", "kv_lora_rank=30: .* type attention.kv_lora_rank=32"),
        ("mlra attention.branches=2 attention.num_attention_heads=3", "attention.num_attention_heads=3 with att"),
    ],
)
def test_what_does_not_divide_is_told(overrides, told):
    with pytest.raises(ConfigError, match=told):
        attention_config(configs.load([*f"attention={overrides}".split(), *SMALL]).attention)
