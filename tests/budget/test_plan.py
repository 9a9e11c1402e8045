"""What a config costs, against published tables, torch's FLOP counter and transformers' models."""

import json

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from mfa_train import config as configs
from mfa_train.budget.activations import Pass, activation_peak
from mfa_train.budget.activations import _peak as run_layers
from mfa_train.budget.devices import Device
from mfa_train.budget.plan import make_plan
from mfa_train.budget.table import table
from mfa_train.errors import ConfigError
from tests.conftest import ROOT, SMALL, VARIANTS


def plan_of(*overrides: str) -> dict:
    return make_plan(configs.load(overrides))


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["attention=mha", "attention.num_attention_heads=16", "attention.head_dim=128"], 196_608),
        (["attention=mfa", "attention.num_attention_heads=18", "attention.head_dim=256"], 24_576),
        (["attention=mfa_kr", "attention.num_attention_heads=18", "attention.head_dim=256"], 12_288),
        (["attention=mla", "attention.kv_lora_rank=512", "attention.qk_rope_head_dim=64"], 27_648),
    ],
)
def test_kv_bytes_of_the_mfa_papers_shapes(overrides, expected):
    """arXiv 2412.19255, the 7B models: 24 layers, hidden 2048, 16-bit cache; MLA in DeepSeek's own count."""
    cache = plan_of("model=1b", "model.num_hidden_layers=24", "model.hidden_size=2048", *overrides)["kv_cache"]
    assert cache["bytes_per_token"] == expected


@pytest.mark.parametrize(
    "typed, booked, entry, effective_rank, latent_dim",
    [
        ("fpba attention.num_attention_heads=2048", 2 * 2048**2, 2048, 2048**2, 2048),
        ("mha", 2 * 2048, 4096, 16 * 128, 2048),
        ("mqa", 2 * 128, 256, 16 * 128, 128),
        ("gqa", 2 * 4 * 128, 1024, 16 * 128, 4 * 128),
        ("mla", 2 * 512, 512 + 64, 16 * 128, 512),
        ("mfa", 2 * 256, 512, 16 * 256, 256),
        ("mfa_kr", 256, 256, 16 * 256, 256),
    ],
)
def test_capacity_is_that_of_the_mfa_papers_table_and_the_entry_what_its_models_cache(
    typed, booked, entry, effective_rank, latent_dim
):
    """arXiv 2412.19255, table 1: cache as booked there, TER, SLSD. Absorbed, FPBA's keys and values are the layer's
    input; DeepSeek's MLA has one latent for both, and a rotated key. docs/attention.md shows what is booked and what is
    measured."""
    attention, *keys = typed.split()
    plan = plan_of("model=1b", *PAPERS_TABLE, f"attention={attention}", *keys)
    assert plan["kv_cache"]["values_per_token_per_layer"] == entry
    assert plan["capacity"] == {"total_effective_rank": effective_rank, "shared_latent_dim": latent_dim}
    row = f"| {booked:,} | {entry:,} | {effective_rank:,} | {latent_dim:,} |"
    assert any(
        line.startswith(f"| `{attention}`") and row in line
        for line in (ROOT / "docs" / "attention.md").read_text().splitlines()
    )


PAPERS_TABLE = [
    "model.hidden_size=2048",
    "model.num_attention_heads=16",
    "model.num_key_value_heads=4",
    "model.head_dim=128",
]


def test_tpa_has_no_capacity():
    """Its scores are of fourth degree in two tokens: the paper has no row."""
    assert plan_of("attention=tpa")["capacity"] is None


def test_fpbas_plan_tells_what_the_paper_books_for_its_bound():
    notes = plan_of("model=1b", "model.hidden_size=2048", "attention=fpba")["notes"]
    assert any(f"2d² = {2 * 2048**2:,} cached values" in note and f"2d³ = {2 * 2048**3:,}" in note for note in notes)


STEP3 = [
    "attention=mfa",
    "model.num_hidden_layers=61",
    "model.hidden_size=7168",
    "attention.num_attention_heads=64",
    "attention.head_dim=256",
    "attention.q_lora_rank=2048",
]
QWEN3_32B = [
    "attention=gqa",
    "model.num_hidden_layers=64",
    "model.hidden_size=5120",
    "attention.num_attention_heads=64",
    "attention.num_key_value_heads=8",
    "attention.head_dim=128",
]
DEEPSEEK_V3 = [
    "attention=mla",
    "model.num_hidden_layers=61",
    "model.hidden_size=7168",
    "attention.num_attention_heads=128",
    "attention.q_lora_rank=1536",
    "attention.kv_lora_rank=512",
    "attention.qk_rope_head_dim=64",
    "attention.qk_nope_head_dim=128",
    "attention.v_head_dim=128",
]


@pytest.mark.parametrize(
    "model, counting, context, cache, attention, linear",
    [
        (STEP3, "exact", 8192, 2.56e8, 3.27e10, 2.07e10),
        (STEP3, "exact", 32768, 1.02e9, 1.31e11, 2.07e10),
        (QWEN3_32B, "exact", 8192, 1.07e9, 1.72e10, 1.21e10),
        (QWEN3_32B, "exact", 32768, 4.29e9, 6.87e10, 1.21e10),
        (DEEPSEEK_V3, "step3", 8192, 2.88e8, 1.47e11, 2.28e10),
        (DEEPSEEK_V3, "step3", 32768, 1.15e9, 5.89e11, 2.28e10),
        (DEEPSEEK_V3, "exact", 8192, 2.88e8, 1.39e11, 2.28e10),
    ],
)
def test_decoding_costs_what_step3s_tables_say(model, counting, context, cache, attention, linear):
    """arXiv 2507.19427, tables 2 and 3: one decoded token, 8-bit cache."""
    plan = plan_of(*model, f"plan.context={context}", "plan.cache_dtype=fp8", f"plan.decode_counting={counting}")
    found = (
        plan["kv_cache"]["bytes_at_context"],
        plan["flops"]["decode_attention_per_token"],
        plan["flops"]["decode_linear_per_token"],
    )
    assert found == pytest.approx((cache, attention, linear), rel=0.01)


def other_half(model, tokens: int) -> int:
    """FLOPs a token of the scores and values that no token needs, as torch's counter counts both halves: forward and
    twice that backward, over the heads that the model's own queries have."""
    layer = model.model.layers[0].self_attn
    with torch.no_grad():
        heads, width = layer.query(
            torch.zeros(1, 1, model.model.embed_tokens.embedding_dim), model.model.rope(torch.zeros(1))
        ).shape[2:]
    return 3 * len(model.model.layers) * heads * (width + layer.v_head_dim) * tokens


@pytest.mark.parametrize("attention", VARIANTS)
def test_parameters_and_flops_are_those_of_the_real_model(attention, small_model):
    """FLOPs of a real forward and backward by torch's own counter, which counts both halves of the scores."""
    plan, model = plan_of(f"attention={attention}", *SMALL, "training.sequence_length=32"), small_model(attention)
    assert plan["params"]["total"] == sum(parameter.numel() for parameter in model.parameters())

    x = torch.randint(0, 199, (1, 33))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model.train()(x[:, :-1], x[:, 1:]).backward()
    assert counter.get_total_flops() / 32 == plan["flops"]["train_per_token"] + other_half(model, 32)


@pytest.mark.parametrize("attention", VARIANTS)
def test_nanos_training_flops_are_those_of_a_real_step(attention):
    """As above, for the model that `make train` trains."""
    from mfa_train.training.steps.engine import build_model

    config = configs.load([f"attention={attention}", "model=nano"])
    model, tokens = build_model(config), config.training.sequence_length
    x = torch.randint(0, config.model.vocab_size, (1, tokens + 1))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(x[:, :-1], x[:, 1:]).backward()
    assert counter.get_total_flops() / tokens == make_plan(config)["flops"]["train_per_token"] + other_half(
        model, tokens
    )


SHAPE = {"hidden_size": 512, "num_hidden_layers": 3, "intermediate_size": 1408, "vocab_size": 1000}
HEADS = {"num_attention_heads": 8, "head_dim": 64, "num_key_value_heads": 2}
LATENT = {
    "num_attention_heads": 8,
    "q_lora_rank": 192,
    "kv_lora_rank": 96,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}


@pytest.mark.parametrize(
    "attention, keys, theirs",
    [
        ("gqa", HEADS, lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, **HEADS))),
        (
            "mla",
            LATENT,
            lambda: transformers.DeepseekV3ForCausalLM(
                transformers.DeepseekV3Config(**SHAPE, **LATENT, num_key_value_heads=8, first_k_dense_replace=3)
            ),
        ),
    ],
)
def test_transformers_models_of_the_same_config_count_the_same(attention, keys, theirs):
    plan = plan_of(
        f"attention={attention}",
        *(f"model.{key}={value}" for key, value in SHAPE.items()),
        *(f"attention.{key}={value}" for key, value in keys.items()),
    )
    with torch.device("meta"):
        model = theirs()
    assert plan["params"]["total"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("attention", ["mla", "mfa", "tpa"])
def test_two_layers_tell_the_activations_of_six(attention, checkpointing):
    """What a plan adds layer by layer, against six layers run."""
    config = configs.load([f"attention={attention}", "model=tiny"])
    assert config.model.num_hidden_layers == 6
    six = Pass(config.model, config.attention, 2, 128, torch.bfloat16, "cuda", "flash")
    assert activation_peak(six, checkpointing) == pytest.approx(run_layers(six, [*range(6)], checkpointing), rel=0.001)


@pytest.mark.parametrize("device", ["cpu", "h100-80gb"])
def test_activations_grow_no_faster_than_the_sequence(device):
    """From 2,048 tokens on no kernel holds all scores at once."""
    short, long = (
        plan_of(
            "model=tiny",
            "attention=mha",
            "precision=bf16",
            f"training.sequence_length={tokens}",
            f"cluster.device={device}",
        )["memory"]["activations"]
        for tokens in (2048, 8192)
    )
    assert long <= 4 * short


@pytest.mark.parametrize(
    "overrides, fits",
    [
        (["model=125m", "cluster.device=h100-80gb"], True),
        (["model=7b", "cluster.device=h100-80gb", "cluster.devices_per_node=8"], False),
        (["model=7b", "cluster.device=a100-40gb", "zero=2"], False),
        (
            [
                "model=3b",
                "cluster.device=a100-40gb",
                "cluster.nodes=3",
                "training.batch_size=96",
                "zero=3",
                "model.num_hidden_layers=200",
            ],
            False,
        ),
    ],
)
def test_the_smallest_change_that_a_plan_tells_makes_the_run_fit(overrides, fits):
    memory = plan_of("attention=mha", *overrides)["memory"]
    assert memory["fits"] is fits
    if not fits:
        assert plan_of("attention=mha", *overrides, *memory["change"])["memory"]["fits"]


def test_time_and_cost_follow_from_flops_and_the_devices_peak():
    plan = plan_of(
        "model=1b",
        "cluster.device=h100-80gb",
        "cluster.devices_per_node=8",
        "plan.mfu=0.5",
        "cluster.price_per_device_hour=3",
    )
    time, flops = plan["time"], plan["flops"]["train_total"]
    assert time["run_seconds"] == pytest.approx(flops / (8 * 0.5 * 989e12))
    assert time["cost"] == pytest.approx(3 * 8 * time["run_seconds"] / 3600)


def test_mfu_can_be_a_runs_measured_one(tmp_path):
    lines = [{"step": step, "mfu": mfu} for step, mfu in ((1, 0.1), (10, 0.31), (20, 0.33))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert plan_of(f"plan.mfu={tmp_path}")["time"]["mfu"] == 0.31


def test_offloading_moves_optimizer_state_to_the_host_and_only_from_a_gpu():
    typed = ["model=1b", "attention=mha", "zero=1", "offload=optimizer", "precision=bf16"]
    gpu, cpu = (plan_of(*typed, f"cluster.device={device}")["memory"] for device in ("h100-80gb", "cpu"))
    assert gpu["offloaded"] == 16 * plan_of(*typed)["params"]["total"] and cpu["offloaded"] == 0
    assert gpu["total"] < plan_of(*typed[:3], "precision=bf16", "cluster.device=h100-80gb")["memory"]["total"]


def test_on_a_cpu_the_copy_that_checkpoints_are_written_from_counts_while_steps_go_on():
    typed = ["model=125m", "attention=mha", "precision=bf16", "cluster.device=cpu"]
    kept, waited = (plan_of(*typed, f"checkpoint.background={value}")["memory"] for value in ("true", "false"))
    assert kept["checkpoint_copy"] == 12 * plan_of(*typed)["params"]["total"] == kept["total"] - waited["total"]


def test_where_only_the_copy_for_checkpoints_is_too_much_the_plan_says_to_wait_for_saves():
    config = configs.load(
        [
            "model=125m",
            "attention=mha",
            "precision=bf16",
            "zero=2",
            "training.micro_batch_size=1",
            "training.activation_checkpointing=full",
        ]
    )
    needed = make_plan(config, Device("cpu", "cpu", 2**40, None), ranks=1)["memory"]["total"]
    memory = make_plan(config, Device("cpu", "cpu", needed, None), ranks=1)["memory"]  # some of it is not usable
    assert not memory["fits"] and memory["change"] == ["checkpoint.background=false"]


EXTREMES = [
    ["plan.context=1099511627776"],
    ["model.num_hidden_layers=1048576", "cluster.device=h100-80gb"],
    ["training.sequence_length=67108864"],
    ["model.vocab_size=16777216"],
    ["training.batch_size=1048576", "training.sequence_length=1", "cluster.device=h100-80gb"],
    [
        "training.steps=100000000000000",
        "plan.mfu=1e-300",
        "cluster.price_per_device_hour=1e12",
        "cluster.device=h100-80gb",
    ],
]


@pytest.mark.parametrize("overrides", EXTREMES, ids=" ".join)
def test_a_plan_of_extremes_is_finite_json_and_a_table(overrides):
    plan = plan_of("model=280k", "attention=mha", *overrides)
    assert json.dumps(plan, allow_nan=False) and len(table(["mha"], [plan])) < 4000


def test_a_tensor_that_cannot_be_counted_is_told_in_one_line():
    config = configs.load(["model=280k", "model.hidden_size=262144"])
    config.training.batch_size = 10**15  # more than a config takes
    with pytest.raises(ConfigError, match="cannot even be counted"):
        make_plan(config)
