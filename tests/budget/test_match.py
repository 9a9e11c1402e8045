"""Matched shapes: the budgets they meet, the ones published, and what is said where there is none."""

import re

import pytest

from mfa_train import config as configs
from mfa_train.budget import match_report
from mfa_train.budget.match import matched
from mfa_train.budget.nearer import notes_of_match
from mfa_train.budget.shape import measure
from mfa_train.errors import ConfigError
from tests.conftest import VARIANTS

MLRA = [
    "model=3b",
    "model.num_hidden_layers=24",
    "model.hidden_size=3072",
    "model.intermediate_size=8192",
    "model.num_attention_heads=24",
    "model.head_dim=128",
]


class Shaped:
    """A matched config: its keys, what is measured on it, and the matching's report."""

    def __init__(self, *overrides: str):
        config, self.report = matched(configs.load(overrides))
        shape = measure(config.model, config.attention)
        self.keys = config.attention | {"intermediate_size": config.model.intermediate_size}
        self.params = shape.params
        self.kv_bytes = shape.cache_bytes(config.plan.cache_dtype)


@pytest.mark.parametrize(
    "overrides, width",
    [
        (["attention=mha"], 8192),
        (["attention=mfa", "attention.head_dim=256", "attention.q_lora_rank=2048"], 8024),
        (["attention=mla", "attention.q_lora_rank=1536", "attention.kv_lora_rank=512"], 9448),
    ],
)
def test_widths_are_those_that_the_mlra_paper_chose_by_hand(overrides, width):
    """arXiv 2603.02188's config files: 24 layers, hidden 3072, all of one size."""
    assert Shaped(*MLRA, *overrides, "match.reference=mha", "match.multiple_of=8").keys["intermediate_size"] == width


@pytest.mark.parametrize("by", ["intermediate_size", "num_attention_heads"])
@pytest.mark.parametrize("attention", sorted(set(VARIANTS) - {"mha", "fpba"}))
@pytest.mark.parametrize("size, budget", [("7b", 24 * 1024), ("nano", 1000)])
def test_cache_is_never_above_the_budget_and_parameters_within_half_a_percent(size, budget, attention, by):
    """1,000 bytes of nano are 125 values a layer, which no variant meets exactly."""
    found = Shaped(
        f"model={size}",
        f"attention={attention}",
        f"match.kv_bytes_per_token={budget}",
        "match.reference=mha",
        f"match.by={by}",
    )
    assert 0.5 * budget < found.kv_bytes <= budget
    assert found.params == pytest.approx(Shaped(f"model={size}", "attention=mha").params, rel=0.005)
    assert found.report["params"]["total"] == found.params
    assert found.report["kv_cache"]["bytes_per_token"] == found.kv_bytes


def test_the_next_larger_choice_would_break_the_budget():
    assert Shaped("model=7b", "attention=mfa", "match.kv_bytes_per_token=24KiB").keys["head_dim"] == 192
    assert Shaped("model=7b", "attention=mfa", "attention.head_dim=200").kv_bytes > 24 * 1024


def test_heads_match_as_in_the_mfa_paper():
    """More heads instead of a wider feed-forward, until the parameters of MHA are reached (arXiv 2412.19255)."""
    found = Shaped("model=7b", "attention=mfa", "match.reference=mha", "match.by=num_attention_heads")
    assert found.keys["num_attention_heads"] > 32
    assert found.keys["intermediate_size"] == 11008
    assert abs(found.report["params"]["difference"]) <= 0.005


def test_more_heads_can_reach_a_cache_that_this_size_has_not():
    """Above MHA's 512 KiB: GQA by heads has no largest cache to be refused for."""
    found = Shaped(
        "model=7b", "attention=gqa", "match.kv_bytes_per_token=1MiB", "match.params=9e9", "match.by=num_attention_heads"
    )
    assert 512 * 1024 < found.kv_bytes <= 2**20 and found.params == pytest.approx(9e9, rel=0.005)


def test_mha_keeps_its_full_cache_unless_asked():
    full = Shaped("model=7b", "attention=mha", "match.kv_bytes_per_token=64KiB")
    assert full.kv_bytes == 512 * 1024
    assert full.report["kv_cache"]["role"] == "reference"
    for key, value in (("head_dim", 16), ("num_attention_heads", 4)):
        asked = Shaped("model=7b", "attention=mha", "match.kv_bytes_per_token=64KiB", f"match.mha={key}")
        assert asked.keys[key] == value and asked.kv_bytes == 64 * 1024


def test_a_variant_that_keeps_its_cache_says_that_it_misses_the_budget_and_meets_the_parameters():
    """FPBA at 7B: 4,096 values a layer, whatever is typed; two heads of full rank have MHA's parameters."""
    words = ["model=7b", "attention=fpba", "match.kv_bytes_per_token=24KiB", "match.reference=mha"]
    found = Shaped(*words)
    assert found.kv_bytes == 32 * 4096 * 2 and found.report["kv_cache"]["role"] == "kept"
    assert found.report["params"]["difference"] == 0
    assert "keeps its cache" in match_report.told(found.report)[0]
    (note,) = notes_of_match(configs.load(words), found.report)
    assert "fpba of model=7b keeps its cache of 262,144 bytes per token" in note and "budget of 24,576" in note
    with pytest.raises(ConfigError, match="fpba of model=7b has at least 34,396,704,768 .*: type match.by=num_att"):
        Shaped(*words, "attention.num_attention_heads=32")
    assert Shaped(*words, "attention.num_attention_heads=32", "match.by=num_attention_heads").params == found.params


def test_params_alone_are_a_target():
    assert Shaped("model=1b", "attention=gqa", "match.params=1.3e9").params == pytest.approx(1.3e9, rel=0.005)


@pytest.mark.parametrize("cache_dtype, head_dim", [("fp8", 376), ("bf16", 192), ("fp32", 96)])
def test_the_budget_is_in_bytes_of_the_caches_type(cache_dtype, head_dim):
    found = Shaped("model=7b", "attention=mfa", "match.kv_bytes_per_token=24KiB", f"plan.cache_dtype={cache_dtype}")
    assert found.keys["head_dim"] == head_dim


def test_matching_what_is_matched_changes_nothing():
    once, _ = matched(
        configs.load(["model=7b", "attention=mfa", "match.kv_bytes_per_token=24KiB", "match.reference=mha"])
    )
    assert matched(once)[0] == once


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["attention=tpa", "match.kv_bytes_per_token=12KiB"], "above: 20480 (k_rank=1, v_rank=1)"),
        (["attention=mfa", "match.kv_bytes_per_token=192KiB", "match.reference=mha"], "Nearest cache possible below: "),
        (
            ["attention=gqa", "match.kv_bytes_per_token=1GiB"],
            "Nearest below: 524288 (num_key_value_heads=32); above: none",
        ),
        (["attention=mfa", "match.params=1e9"], "match.params="),
        (["attention=mfa", "match.reference=mfra"], "match.reference=mfra: no such attention. Did you mean 'mfa'?"),
        (["attention=mfa", "match.reference=mha", "match.params=1e9"], "two targets"),
        *(
            (["attention=mfa", f"match.kv_bytes_per_token='{given}'"], f"match.kv_bytes_per_token={given}: expected")
            for given in ("0", "-1", "lots", "24 kilos", "0.5")
        ),
    ],
)
def test_what_cannot_be_says_what_can(overrides, told):
    with pytest.raises(ConfigError) as error:
        Shaped("model=7b", *overrides)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given, expected",
    [("24576", 24576), ("24KiB", 24576), ("24KB", 24000), ("'24 KiB'", 24576), ("1.5KiB", 1536), ("2e4", 20000)],
)
def test_budgets_come_with_units_or_without(given, expected):
    assert configs.load([f"match.kv_bytes_per_token={given}"]).match.kv_bytes_per_token == expected


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=7b", "attention=tpa", "match.kv_bytes_per_token=12KiB"),
        ("model=7b", "attention=mfa", "match.kv_bytes_per_token=192KiB", "match.reference=mha"),
        ("model=7b", "attention=mla", "match.kv_bytes_per_token=4MiB", "match.reference=mha"),
        (
            "model=nano",
            "attention=mfa",
            "match.kv_bytes_per_token=64KiB",
            "match.params=3e6",
            "match.by=num_attention_heads",
        ),
    ],
)
def test_the_nearest_possible_budget_is_possible(overrides):
    with pytest.raises(ConfigError) as error:
        Shaped(*overrides)
    Shaped(*overrides, str(error.value).split("type ")[1])


@pytest.mark.parametrize(
    "asked",
    [
        "model=280k attention=mfa match.params=150000 match.multiple_of=64",
        "model=280k attention=mfa match.params=150000 match.multiple_of=256",
        "model=280k attention=mqa match.params=75000 model.hidden_size=32 match.multiple_of=8",
        "model=280k attention=mqa match.params=60000",
        "model=280k attention=mla match.reference=mqa match.multiple_of=1000",
        "model=nano attention=mqa match.kv_bytes_per_token=8 match.reference=mha",
        "model=nano attention=mqa match.kv_bytes_per_token=100000000 match.reference=mha",
        "model=nano attention=mfa_kr match.params=200000 match.by=num_attention_heads match.multiple_of=1",
        "model=7b attention=mla match.kv_bytes_per_token=1000000000 match.params=6e9",
    ],
)
def test_what_is_advised_works(asked):
    words = ["data.vocab_size=512", *asked.split()]
    with pytest.raises(ConfigError) as told:
        matched(configs.load(words))
    advice, instead = re.search(r": type (match\.\S+)( instead of match\.reference)?$", str(told.value)).groups()
    kept = [
        word
        for word in words
        if word.split("=")[0] not in (advice.split("=")[0], "match.reference" if instead else None)
    ]
    matched(configs.load([*kept, advice]))


def test_where_nothing_helps_nothing_is_advised():
    with pytest.raises(ConfigError, match="no other value of match.multiple_of .* helps: type other parameters"):
        matched(configs.load(["model=nano", "attention=mla", "match.kv_bytes_per_token=64", "match.params=1"]))


def test_a_variant_whose_choices_are_coarse_says_how_far_below_it_stays_and_what_meets_the_budget():
    """GQA of 32 heads at 24 KiB: one key head has 16, two have 32."""
    words = ["model=7b", "match.kv_bytes_per_token=24KiB", "match.reference=mha"]
    for attention, notes in (("gqa", 1), ("mfa", 0), ("mha", 0)):
        config = configs.load([*words, f"attention={attention}"])
        found = notes_of_match(config, matched(config)[1])
        assert len(found) == notes
        if found:
            assert (
                "33% less cache than the budget of 24,576" in found[0]
                and "num_key_value_heads=2, has 32,768" in found[0]
            )
            advice = re.search(r"attention=gqa (attention\.head_dim=\d+) meets it$", found[0])[1]
            assert Shaped(*words, "attention=gqa", advice).kv_bytes == 24 * 1024
