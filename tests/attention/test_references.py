"""Each attention against an outside reference: transformers, or the paper's formula written out densely."""

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mfa_train.attention.rope import Rope, RopeScaling, inverse_frequencies

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 199,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
}


def assert_same_logits(ours, theirs):
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randint(0, 199, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (ours(x) - theirs.eval()(input_ids=x).logits).abs().max().item()
    assert difference < 1e-5


@pytest.mark.parametrize("attention, kv_heads", [("mha", 4), ("gqa", 2), ("mqa", 1)])
def test_equals_transformers_llama(attention, kv_heads, small_model):
    config = LlamaConfig(
        **SHAPE,
        num_key_value_heads=kv_heads,
        head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    assert_same_logits(small_model(attention, std=0.05), LlamaForCausalLM(config))


@pytest.mark.parametrize("q_lora_rank", [48, None])
def test_mla_equals_transformers_deepseek_v3(q_lora_rank, small_model):
    config = DeepseekV3Config(
        **SHAPE,
        q_lora_rank=q_lora_rank,
        kv_lora_rank=24,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=12,
        first_k_dense_replace=2,
        num_key_value_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    ours = small_model(
        "mla",
        f"attention.q_lora_rank={q_lora_rank or 'null'}",
        "attention.kv_lora_rank=24",
        "attention.qk_nope_head_dim=16",
        "attention.qk_rope_head_dim=8",
        "attention.v_head_dim=12",
        std=0.05,
    )
    assert_same_logits(ours, DeepseekV3ForCausalLM(config))


@pytest.mark.parametrize(
    "scaling, theirs",
    [
        (RopeScaling("linear", 4.0), {"rope_type": "linear", "factor": 4.0}),
        (
            RopeScaling("yarn", 8.0, 4096),
            {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096},
        ),
        (
            RopeScaling("llama3", 8.0, 8192),
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        ),
    ],
)
def test_rope_scalings_equal_transformers(scaling, theirs):
    config = LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        head_dim=128,
        max_position_embeddings=32768,
        rope_parameters={"rope_theta": 500000.0, **theirs},
    )
    expected, factor = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, device="cpu")
    torch.testing.assert_close(inverse_frequencies(128, 500000.0, scaling), expected, rtol=1e-5, atol=0)
    assert Rope(128, 500000.0, scaling).attention_factor == pytest.approx(factor)


def causal_softmax(scores: torch.Tensor) -> torch.Tensor:
    tokens = scores.shape[-1]
    return scores.masked_fill(torch.ones(tokens, tokens, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


def rotation(dim: int, position: int, theta: float = 10000.0) -> torch.Tensor:
    """RoPE at a position as a dense matrix (RoFormer, equation 15, pairs in halves)."""
    matrix, half = torch.zeros(dim, dim), dim // 2
    for pair in range(half):
        angle = torch.tensor(position * theta ** (-2 * pair / dim))
        matrix[pair, pair] = matrix[pair + half, pair + half] = angle.cos()
        matrix[pair, pair + half], matrix[pair + half, pair] = -angle.sin(), angle.sin()
    return matrix


@pytest.mark.parametrize("inter_norm", ["false", "true"])
def test_mfa_equals_the_papers_equation(inter_norm, small_model):
    """arXiv 2412.19255, section 3.1: head c scores x_i S_q Q_c R_(i-j) (x_j S_k)ᵀ, and its output is
    sum_j p_ij x_j S_v O_c. Each head is written out as one dense matrix, without sharing anything."""
    model = small_model("mfa", f"attention.inter_norm={inter_norm}", "attention.q_lora_rank=20")
    layer = model.model.layers[0].self_attn
    dim, tokens = layer.qk_head_dim, 11
    x = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(2))
    s_q, s_k, s_v = layer.q_proj.weight.t(), layer.k_proj.weight.t(), layer.v_proj.weight.t()
    latent = x @ s_q
    if inter_norm == "true":
        latent = latent / (latent.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.inter_norm.weight
    expected = torch.zeros(tokens, 64)
    with torch.no_grad():
        for head in range(4):
            rows = slice(head * dim, (head + 1) * dim)
            q_c, o_c = layer.wq.weight[rows].t(), layer.o_proj.weight[:, rows].t()
            scores = torch.stack(
                [
                    torch.stack(
                        [
                            latent[i] @ q_c @ rotation(dim, i).t() @ rotation(dim, j) @ (x[j] @ s_k)
                            for j in range(tokens)
                        ]
                    )
                    for i in range(tokens)
                ]
            )
            expected += causal_softmax(scores / dim**0.5) @ (x @ s_v @ o_c)
        found = layer(x[None], model.model.rope(torch.arange(tokens)))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_mfa_kr_with_closed_gates_is_mfa_whose_value_head_is_its_unrotated_key_head(small_model):
    kr, mfa = small_model("mfa_kr").model, small_model("mfa").model
    x = torch.randn(2, 13, 64, generator=torch.Generator().manual_seed(4))
    positions = kr.rope(torch.arange(13))
    for reuse, plain in zip(kr.layers, mfa.layers):
        reuse.self_attn.alpha.data.zero_()
        plain.self_attn.load_state_dict(
            {
                **{name: weight for name, weight in reuse.self_attn.state_dict().items() if name != "alpha"},
                "v_proj.weight": reuse.self_attn.k_proj.weight,
            }
        )
        with torch.no_grad():
            torch.testing.assert_close(
                reuse.self_attn(x, positions), plain.self_attn(x, positions), rtol=1e-5, atol=1e-6
            )


def test_mfa_kr_gates_the_output_channels_of_the_value(small_model):
    """arXiv 2412.19255, section 3.3: S_v = (I + diag(alpha) N) S_k."""
    layer = small_model("mfa_kr").model.layers[0].self_attn
    dim = layer.qk_head_dim
    x = torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        s_v = (torch.eye(dim) + torch.diag(layer.alpha) @ layer.v_proj.weight) @ layer.k_proj.weight
        positions = small_model("mfa_kr").model.rope(torch.arange(7))
        _, v = layer.keys_values(*layer.cache_entry(x, positions), positions=positions)
    torch.testing.assert_close(v[0, :, 0], x[0] @ s_v.t(), rtol=1e-4, atol=1e-5)


def test_tpa_equals_its_definition(small_model):
    """arXiv 2501.06425, equations 3.1-3.3: Q_t = (1/R) sum_r a_r(x_t) ⊗ b_r(x_t), RoPE on b, for q, k and v."""
    model = small_model("tpa")
    layer, tokens, heads, dim = model.model.layers[0].self_attn, 9, 4, 16
    x = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(6))

    def contracted(name: str, rank: int, rotate: bool) -> torch.Tensor:
        a = (x @ getattr(layer, f"W_A_{name}").weight.t()).reshape(tokens, heads, rank)
        b = (x @ getattr(layer, f"W_B_{name}").weight.t()).reshape(tokens, rank, dim)
        out = torch.zeros(tokens, heads, dim)
        for t in range(tokens):
            turn = rotation(dim, t) if rotate else torch.eye(dim)
            for r in range(rank):
                out[t] += torch.outer(a[t, :, r], turn @ b[t, r]) / rank
        return out

    with torch.no_grad():
        q, k, v = contracted("q", 6, True), contracted("k", 2, True), contracted("v", 2, False)
        weights = causal_softmax(torch.einsum("ihd,jhd->hij", q, k) / dim**0.5)
        expected = torch.einsum("hij,jhd->ihd", weights, v).flatten(1) @ layer.o_proj.weight.t()
        found = layer(x[None], model.model.rope(torch.arange(tokens)))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gate", ["head", "element"])
def test_a_gate_is_the_sigmoid_of_a_linear_map_of_the_layers_input(gate, small_model):
    """arXiv 2505.06708 at its position G1, written out head by head."""
    layer, rope = small_model("gqa", f"attention.output_gate={gate}").model.layers[0].self_attn, Rope(16, 10000.0)
    x, positions = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(0)), rope(torch.arange(7))
    q, (k, v) = layer.query(x, positions), layer.cache_entry(x, positions)
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    per_head = []
    for head in range(4):
        scores = q[:, :, head] @ k[:, :, head // 2].transpose(1, 2) / 16**0.5
        o = scores.masked_fill(~causal, -torch.inf).softmax(-1) @ v[:, :, head // 2]
        rows = slice(head, head + 1) if gate == "head" else slice(16 * head, 16 * (head + 1))
        per_head.append(o / (1 + (-x @ layer.g_proj.weight[rows].T).exp()))
    expected = torch.cat(per_head, dim=-1) @ layer.o_proj.weight.T
    torch.testing.assert_close(layer(x, positions), expected, rtol=1e-4, atol=1e-5)
