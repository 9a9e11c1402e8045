"""The compiled kernel is attention over the same entries: against torch's ops in float64, whatever the shape."""

import math

import pytest
import torch

from mfa_train import config as configs
from mfa_train.attention import attention_class, attention_config
from mfa_train.attention.kernels import compiled
from mfa_train.attention.kernels.decoding import decoding_attention
from mfa_train.attention.rope import Rope
from mfa_train.budget.activations import _Storages
from mfa_train.model import rows
from tests.conftest import VARIANTS

TOKENS = 2500
"""More than a span of the kernel, and no multiple of its blocks."""

SHAPES = {  # heads, parts of the keys (kv_heads, dim), values (kv_heads, dim) or the part that they are
    "mha": (4, [(4, 64)], (4, 64)),
    "gqa": (8, [(2, 64)], (2, 64)),
    "mqa": (16, [(1, 64)], (1, 64)),
    "mfa": (24, [(1, 128)], (1, 128)),
    "mfa_kr": (20, [(1, 128)], 0),
    "mla": (16, [(1, 512), (1, 64)], 0),
    "gla": (16, [(2, 128), (1, 32)], 0),
    "gta": (16, [(4, 32), (1, 32)], (4, 64)),
    "odd widths": (5, [(1, 70), (1, 6)], (1, 35)),
    "odd widths, narrow": (3, [(3, 70), (1, 6)], (3, 35)),
    "more heads than a chunk of rows": (70, [(1, 24)], (1, 24)),
}
EXACT = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
"""Error in root mean square, relative: bfloat16's is that of rounding the result."""


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    if compiled.library() is None:
        pytest.skip("no C++ compiler with OpenMP")
    monkeypatch.setattr(compiled, "LEAST_TOKENS", 1)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + math.prod(shape)))


def cached(batch: int, heads: int, tokens: int, dim: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """(batch, tokens, heads, dim) in the cache's layout."""
    return values(batch, heads, tokens, dim, seed=seed).to(dtype).transpose(1, 2)


def inputs(name: str, dtype=torch.float32, queries: int = 1, tokens: int = TOKENS):
    heads, parts, of_values = SHAPES[name]
    q = [2 * values(2, queries, heads, dim).to(dtype) for _, dim in parts]
    k = [cached(2, *part[:1], tokens, part[1], dtype, seed=i) for i, part in enumerate(parts)]
    v = k[of_values] if isinstance(of_values, int) else cached(2, of_values[0], tokens, of_values[1], dtype, seed=9)
    return q, k, v, sum(dim for _, dim in parts) ** -0.5


def difference(q, k, v, scale, factors=None, **others) -> float:
    """Of the kernel's result from torch's in float64."""

    def wide(tensors):
        return None if tensors is None else [x.double() for x in tensors]

    assert compiled.serves(q, (*k, v))
    found = decoding_attention(q, k, v, scale, factors=factors, **others)
    exact = decoding_attention(wide(q), wide(k), v.double(), scale, factors=wide(factors), **others)
    assert found.dtype == v.dtype and exact.dtype == torch.float64
    return ((found - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("name", ["mha", "mla"])
def test_torchs_ops_round_the_weights_alone_in_16_bits_not_the_scores(name, monkeypatch):
    """Scores of queries this long, rounded to bfloat16, would be off by 0.02."""
    q, k, v, scale = inputs(name, torch.bfloat16, tokens=400)
    q = [3 * part for part in q]
    monkeypatch.setattr(compiled, "LEAST_TOKENS", TOKENS)
    exact = decoding_attention([x.double() for x in q], [x.double() for x in k], v.double(), scale)
    found = decoding_attention(q, k, v, scale)
    assert (found - exact).norm() < EXACT[torch.bfloat16] * exact.norm()


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("name", SHAPES)
def test_the_kernel_is_attention(name, dtype):
    assert difference(*inputs(name, dtype)) < EXACT[dtype]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_the_work(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert difference(*inputs("gta")) < EXACT[torch.float32]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("tokens", [1, 15, 64, 65, 300])
@pytest.mark.parametrize("name", ["mha", "mfa"])
def test_a_cache_may_have_any_length(name, tokens):
    assert difference(*inputs(name, tokens=tokens)) < EXACT[torch.float32]


@pytest.mark.parametrize("queries", [1, 9, 70])
@pytest.mark.parametrize("name", ["mha", "gqa", "mla"])
def test_blocks_of_queries_see_their_own_past_with_lengths_and_sinks(name, queries):
    q, k, v, scale = inputs(name, queries=queries, tokens=300)
    lengths, sinks = torch.tensor([300, 137]), 3 * values(q[0].shape[2])
    assert difference(q, k, v, scale, lengths=lengths, sinks=sinks) < EXACT[torch.float32]


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("interleave", [False, True])
def test_keys_are_turned_as_they_are_read(interleave, dtype):
    q, k, v, scale = inputs("mfa_kr", dtype, tokens=300)
    positions = Rope(128, 10000.0, None, interleave)(torch.arange(300))
    assert difference(q, k, v, scale, turned=positions) < EXACT[dtype]
    by_row = positions.at(torch.stack((torch.arange(300), torch.arange(300).flip(0))))
    assert difference(q, k, v, scale, turned=by_row) < EXACT[dtype]


@pytest.mark.parametrize("dtype", EXACT)
def test_keys_and_values_may_be_sums_of_ranks(dtype):
    q, k, v = [values(2, 3, 6, 32).to(dtype)], [cached(2, 3, 300, 32, dtype)], cached(2, 2, 300, 40, dtype)
    factors = (cached(2, 6, 300, 3, dtype), cached(2, 6, 300, 2, dtype))
    assert difference(q, k, v, 0.1, factors, lengths=torch.tensor([300, 99])) < EXACT[dtype]


@pytest.mark.parametrize("name", ["mha", "mfa", "mla"])
def test_what_stands_behind_a_row_is_never_seen(name):
    q, k, v, scale = inputs(name, tokens=300)
    lengths = torch.tensor([300, 137])
    clean = decoding_attention(q, k, v, scale, lengths=lengths)
    for part in (*k, v):
        part[1, 137:] = torch.nan
    assert torch.equal(decoding_attention(q, k, v, scale, lengths=lengths), clean)


@pytest.mark.parametrize("name", ["mha", "mfa"])
def test_nan_in_an_entry_reaches_the_result(name):
    q, k, v, scale = inputs(name, tokens=300)
    k[0][1, 70, 0, 3] = torch.nan
    out = decoding_attention(q, k, v, scale)
    assert out[0].isfinite().all() and out[1, :, 0].isnan().all()


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("attention", VARIANTS)
def test_every_attention_attends_through_the_kernel_as_over_its_keys_and_values(attention, dtype, small_model):
    """Its queries come as it makes them: parts of a head, heads of a transposed product."""
    model = small_model(attention).to(dtype)
    layer, positions = model.model.layers[0].self_attn, model.model.rope(torch.arange(TOKENS))
    x, lengths = values(2, TOKENS, 64).to(dtype), torch.tensor([TOKENS, 137])
    with torch.no_grad():
        entry = layer.cache_entry(x, positions)
        k, v = (part.double() for part in layer.keys_values(*entry, positions=positions))
        for queries in (1, 3):
            q = layer.query(x[:, -queries:], positions.between(TOKENS - queries, TOKENS))
            sinks = None if layer.sinks is None else layer.sinks.double()
            exact = decoding_attention((q.double(),), (k,), v, layer.scale, lengths=lengths, sinks=sinks)
            found = layer.attend(q, *entry, positions=positions, lengths=lengths)
            assert (found - exact).norm() / exact.norm() < 4 * EXACT[dtype]


@pytest.mark.parametrize("attention", VARIANTS)
def test_every_attention_decodes_through_the_kernel_in_a_small_part_of_its_cache(attention, monkeypatch):
    config = configs.load([f"attention={attention}", "model=350m"])
    variant = attention_config(config.attention)
    layer = attention_class(attention)(config.model.hidden_size, variant).requires_grad_(False)
    rope, tokens = layer.make_rope(variant), 4096
    everywhere = rope(torch.arange(tokens))
    x, here = values(1, 1, config.model.hidden_size), everywhere.between(tokens - 1, tokens)
    entry = [_in_cache(part, tokens) for part in layer.cache_entry(x, here)]
    q = layer.query(x, here)
    with _Storages(layer, expert_ranks=1) as storages:
        storages.known |= {tensor.untyped_storage()._cdata for tensor in (*entry, *everywhere[:2], q)}
        o = layer.attend(q, *entry, positions=everywhere)
    assert storages.peak < sum(part.nbytes for part in entry) / 4
    monkeypatch.setattr(compiled, "LEAST_TOKENS", tokens + 1)
    by_torch = layer.attend(q, *entry, positions=everywhere)
    assert 0 < (o - by_torch).norm() < 1e-5 * by_torch.norm()


def test_what_torch_compiles_goes_through_torchs_ops(small_model, monkeypatch):
    """As an evaluation under training.compile with sinks does, in float32."""
    model, x = small_model("deepseek_v4"), torch.arange(60).view(1, -1)
    with torch.no_grad():
        compiled_by_torch = torch.compile(model, backend="eager")(x)
        torch.testing.assert_close(compiled_by_torch, model(x), rtol=1e-4, atol=1e-5)
        monkeypatch.setattr(rows, "LEAST_WEIGHTS", 0)
        mlp, x = model.model.layers[0].mlp, values(1, 1, model.model.embed_tokens.embedding_dim)
        by_torch, _ = mlp(x)
        with rows.few_rows(mlp):
            assert torch.equal(torch.compile(mlp, backend="eager", fullgraph=True)(x)[0], by_torch)


def _in_cache(part: torch.Tensor, tokens: int) -> torch.Tensor:
    rest = part.shape[2:]
    if len(rest) == 1:
        return values(1, tokens, *rest)
    return values(1, rest[0], tokens, *rest[1:]).transpose(1, 2)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", '"c++'])
def test_without_a_compiler_torch_does_the_work_and_says_so_once(compiler, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    compiled.library.cache_clear()
    try:
        assert not any(compiled.serves(*x) for x in [([values(1, 1, 1, 8)], [values(1, 600, 1, 8)])] * 2)
        error = capsys.readouterr().err
    finally:
        compiled.library.cache_clear()
    assert error.count("\n") == 1 and "torch's ops" in error and "its kernel was not built (" in error
