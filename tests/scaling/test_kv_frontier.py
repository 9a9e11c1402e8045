"""KV bytes for the same loss: interpolated, with an interval that holds the truth."""

import itertools

import numpy as np
import pytest

from mfa_train.scaling.laws.fits import VariantFit
from mfa_train.scaling.study.runs import Run
from mfa_train.scaling.verdicts.at_largest import at_largest
from mfa_train.scaling.verdicts.cells import cells_of
from mfa_train.scaling.verdicts.kv_at_equal_loss import kv_at_equal_loss
from mfa_train.scaling.verdicts.kv_frontier import loss_over_kv
from mfa_train.scaling.verdicts.on_frontier import NOT_SHOWN, OFF, ON


def cell(generator, seeds: int, noise: float) -> list[dict]:
    """MFA at two caches and MLA between them in loss; what a seed does to all of them is larger than what it does to
    one."""
    common = generator.normal(0, 0.01, seeds)

    def row(variant: str, kv: int, loss: float) -> dict:
        by_seed = {str(seed): float(loss + common[seed] + generator.normal(0, noise)) for seed in range(seeds)}
        return {
            "accounting": "parameters",
            "size": "4x128",
            "cell_tokens": 1e6,
            "variant": variant,
            "kv_bytes_per_token": kv,
            "by_seed": by_seed,
            "loss": {"value": float(np.mean(list(by_seed.values())))},
        }

    return [row("mfa a", 100, 3.1), row("mfa b", 400, 3.0), row("mla", 300, 3.05)]


ATTENTIONS = {"mfa a": "mfa", "mfa b": "mfa", "mla": "mla"}


def test_halfway_in_loss_is_halfway_in_log_kv():
    [row] = kv_at_equal_loss(cell(np.random.default_rng(0), 3, noise=0), ATTENTIONS)
    assert row["kv_bytes_needed"] == pytest.approx({"value": 200, "low": 200, "high": 200})
    assert row["ratio"]["value"] == pytest.approx(2 / 3) and (row["attention"], row["variant"]) == ("mfa", "mla")


def test_the_interval_holds_the_truth_and_one_seed_has_none():
    generator = np.random.default_rng(1)
    rows = [kv_at_equal_loss(cell(generator, 3, noise=0.003), ATTENTIONS)[0]["kv_bytes_needed"] for _ in range(400)]
    assert 0.92 < np.mean([row["low"] <= 200 <= row["high"] for row in rows]) < 0.98
    [single] = kv_at_equal_loss(cell(generator, 1, noise=0.003), ATTENTIONS)
    assert single["kv_bytes_needed"]["low"] is None and single["kv_bytes_needed"]["value"] > 0


def test_seeds_that_leave_a_factor_of_a_hundred_leave_no_answer():
    a, b, mla = cell(np.random.default_rng(0), 3, noise=0)
    mla["by_seed"] = {seed: loss + 0.2 * (int(seed) - 1) for seed, loss in mla["by_seed"].items()}
    [row] = kv_at_equal_loss([a, b, mla], ATTENTIONS)
    assert row["reason"].startswith("not determined")
    assert set(row["kv_bytes_needed"].values()) == set(row["ratio"].values()) == {None}


def test_what_has_no_answer_has_a_reason():
    a, b, mla = cell(np.random.default_rng(0), 3, noise=0)
    for loss, why in ((2.9, "more than its largest, 400"), (3.2, "less than its smallest, 100")):
        common = a["loss"]["value"] - 3.1
        [row] = kv_at_equal_loss([a, b, mla | {"loss": {"value": loss + common}}], ATTENTIONS)
        assert row["kv_bytes_needed"]["value"] is None and row["reason"] == why
    a, b = a | {"loss": b["loss"]}, b | {"loss": a["loss"]}
    assert kv_at_equal_loss([a, b, mla], ATTENTIONS)[0]["reason"] == "its loss does not fall with its cache"


def measured(
    variant: str, kv: int, losses: list[float], tokens: float = 1e6, params: float = 1e6, size="4x128"
) -> list[Run]:
    return [
        Run(
            f"{variant}-{tokens}-{seed}",
            "",
            variant=variant,
            size=size,
            seed=seed,
            params=params,
            tokens=tokens,
            loss=loss,
            kv_bytes_per_token=kv,
        )
        for seed, loss in enumerate(losses)
    ]


def test_budgets_within_a_percent_are_one_cell_and_no_others():
    runs = [run for tokens in (1.049e6, 1.051e6, 1.08e6, 1.14e6) for run in measured("mha", 100, [3.0], tokens)]
    assert [len(cell["mha"]) for cell in cells_of(runs).values()] == [2, 1, 1]


def test_a_variant_leaves_the_frontier_only_where_another_is_shown_to_be_better():
    runs = [
        *measured("mha", 300, [3.00, 3.02, 3.01]),
        *measured("mla", 100, [2.90, 2.92, 2.91]),
        *measured("mfa", 100, [2.895, 2.925, 2.911]),
        *measured("mqa", 50, [2.5, 2.5, 2.5], params=1.1e6),
    ]
    rows, said = loss_over_kv(runs, {run.variant: VariantFit("none") for run in runs}, "mha")
    assert {row["variant"]: row["on_frontier"] for row in rows} == {"mha": False, "mla": True, "mfa": True}
    assert len(said) == 1 and said[0].startswith("mqa at size 4x128: its parameters differ")


def marks(*runs: list[Run], key: str = "on_frontier") -> dict[tuple[str, str], bool | None]:
    every = list(itertools.chain(*runs))
    rows, _ = loss_over_kv(every, {run.variant: VariantFit("none") for run in every}, "mha")
    return {(row["size"], row["variant"]): row[key] for row in rows}


def test_one_seed_shows_nothing_and_two_of_a_size_are_judged_by_the_spread_of_all_sizes():
    assert marks(measured("mha", 300, [3.0]), measured("mla", 100, [2.9])) == {
        ("4x128", "mha"): None,
        ("4x128", "mla"): True,
    }
    apart = measured("mla", 100, [2.5, 2.5, 2.6])
    for run in apart:
        run.seed += 3
    assert marks(measured("mha", 300, [3.5, 3.5, 3.6]), apart)["4x128", "mha"] is None  # no seed is shared
    two = [*measured("mha", 300, [3.00, 3.01]), *measured("mla", 100, [2.95, 2.97])]
    assert marks(two)["4x128", "mha"] is True  # Student's quantile of one degree of freedom: 12.7
    more = [
        run
        for size in ("6x192", "8x256")
        for run in (
            *measured("mha", 300, [3.00, 3.02, 3.01], size=size),
            *measured("mla", 100, [2.95, 2.965, 2.965], size=size),
        )
    ]
    assert set(marks(two, more).items()) == {
        ((size, name), name == "mla") for size in ("4x128", "6x192", "8x256") for name in ("mha", "mla")
    }
    one = [*measured("mha", 300, [3.0], size="9x512"), *measured("mla", 100, [2.9], size="9x512")]
    assert marks(two, more, one)["9x512", "mha"] is None


def test_what_is_shown_to_be_on_the_frontier_is_told_from_what_is_only_not_refuted():
    small = measured("mla", 100, [3.10, 3.12, 3.11])
    lower = measured("mha", 300, [3.00, 3.022, 3.008])
    level = measured("mfa", 300, [3.11, 3.12, 3.105])
    higher = measured("mqa", 200, [3.30, 3.323, 3.309])
    found = marks(small, lower, level, higher, key="frontier")
    assert {name: mark for (_, name), mark in found.items()} == {"mla": ON, "mha": ON, "mfa": OFF, "mqa": OFF}
    found = marks(small, level, key="frontier")
    assert found["4x128", "mla"] == ON and found["4x128", "mfa"] == NOT_SHOWN


def test_marks_are_corrected_for_the_pairs_of_the_cell():
    """Alone p is 0.02; of six pairs it is not shown."""
    mla, mha = measured("mla", 100, [3.0, 3.01, 3.02]), measured("mha", 300, [3.062, 3.05, 3.092])
    assert marks(mla, mha, key="frontier")["4x128", "mha"] == OFF
    others = [measured("mqa", 400, [3.04, 3.0, 3.08]), measured("gqa", 500, [3.0, 3.07, 3.05])]
    assert marks(mla, mha, *others, key="frontier")["4x128", "mha"] == NOT_SHOWN


@pytest.mark.parametrize(("variants", "studies"), [(2, 1000), (11, 100)])
def test_the_interval_of_a_loss_is_pooled_over_sizes_and_holds_the_truth(variants, studies):
    """Two seeds at each of three sizes, which the variants share: three degrees of freedom, however many variants. Most
    of the spread is what a seed does to all of them."""
    draw, held, widths = np.random.default_rng(5), [], []
    for _ in range(studies):
        runs = []
        for size in ("4x128", "6x192", "8x256"):
            common = 3 + draw.normal(0, 0.019, 2)
            for index in range(variants):
                losses = list(common + draw.normal(0, 0.006, 2))
                runs += measured(f"mla {index}", 100 + 10 * index, losses, size=size)
        rows, _ = loss_over_kv(runs, {run.variant: VariantFit("none") for run in runs}, "mla 0")
        held += [row["loss"]["low"] <= 3 <= row["loss"]["high"] for row in rows]
        widths += [row["loss"]["high"] - row["loss"]["low"] for row in rows]
    assert rows[0]["spread"] | {"deviation": 0} == {"deviation": 0, "free": 3, "over": "sizes and variants"}
    assert 0.92 < np.mean(held) < 0.98
    assert np.mean(widths) < 0.1  # one size's two seeds alone: Student's quantile of 12.7, and 0.29


def test_the_terminal_and_the_page_tell_one_interval_of_a_loss():
    """Of variants without a cache, or of other parameters, the page has no mark; their seeds are pooled too."""
    runs = [
        *measured("mha", 300, [3.00, 3.02]),
        *measured("mla", 100, [2.95, 2.99]),
        *measured("mqa", 50, [2.5, 2.7], params=1.1e6),
        *measured("other", 0, [3.1, 3.4]),
    ]
    for run in runs:
        run.kv_bytes_per_token = run.kv_bytes_per_token or None
    variants = {run.variant: [one for one in runs if one.variant == run.variant] for run in runs}
    rows, _ = loss_over_kv(runs, {name: VariantFit("none") for name in variants}, "mha")
    on_page = {row["variant"]: (row["loss"], row["spread"]) for row in rows}
    at_terminal = {row["variant"]: (row["loss"], row["spread"]) for row in at_largest(variants, "mha")}
    assert on_page.keys() == {"mha", "mla"} and at_terminal.keys() == variants.keys()
    assert all(at_terminal[name] == told for name, told in on_page.items())
