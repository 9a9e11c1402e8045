"""At equal FLOPs and at equal loss, by the runs' own token budgets where they reach, against known laws."""

import random

import numpy as np
import pytest

from mfa_train.scaling.laws.fits import VariantFit
from mfa_train.scaling.study.runs import DataOrder, HeldOut, Run
from mfa_train.scaling.verdicts.kv_frontier import loss_over_kv
from mfa_train.scaling.verdicts.measured import Measured
from mfa_train.scaling.verdicts.paired import verdicts
from tests.scaling.synthetic import NANO, VARIANTS

PARAMS, BUDGETS, SEEDS = 3.2e6, (5e7, 1e8, 2e8), (1, 2, 3)
MFA = VARIANTS[2].law
NO_LAW = {variant.attention: VariantFit("none") for variant in VARIANTS}
LAWS = {variant.attention: VariantFit("separate", law=variant.law, draws=variant.law) for variant in VARIANTS}


def ladder(noise: float = 0.0, generator=None, budgets=BUDGETS, dearer: float = 1.0) -> dict[str, list[Run]]:
    """Of one size; what a seed does to all variants and budgets is three times what it does to one. mfa needs 1.1
    times the FLOPs, and `dearer` times as many again."""
    common = {seed: generator.normal(0, 3 * noise) if noise else 0.0 for seed in SEEDS}
    return {
        variant.attention: [
            Run(
                f"{variant.attention}-{tokens:.3g}-{seed}",
                "",
                attention=variant.attention,
                variant=variant.attention,
                size="4x192",
                seed=seed,
                order=DataOrder("data", None, seed, 256),
                evaluated_on=HeldOut("t", "held out", 512, 256),
                params=PARAMS,
                tokens=tokens,
                flops=6 * PARAMS * tokens * variant.flops_share * (dearer if variant.law == MFA else 1),
                kv_bytes_per_token=1000 * variant.kv_share,
                loss=float(variant.law(PARAMS, tokens)) + common[seed] + (generator.normal(0, noise) if noise else 0.0),
            )
            for tokens in budgets
            for seed in SEEDS
        ]
        for variant in VARIANTS
    }


def of_mfa(runs: dict[str, list[Run]], fits=NO_LAW) -> dict:
    return next(verdict for verdict in verdicts(runs, fits) if (verdict["a"], verdict["b"]) == ("mha", "mfa"))


def truth(ratio: float) -> float:
    """mha − mfa: mfa, the dearer, on fewer tokens; at the smallest budget mha on more."""
    moved = [
        NANO(PARAMS, BUDGETS[0] * ratio) - MFA(PARAMS, BUDGETS[0]),
        *(NANO(PARAMS, tokens) - MFA(PARAMS, tokens / ratio) for tokens in BUDGETS[1:]),
    ]
    return float(np.mean(moved))


@pytest.mark.parametrize("dearer", [1.0, 1.4])
def test_without_a_law_the_difference_at_equal_flops_is_between_the_budgets(dearer):
    verdict = of_mfa(ladder(dearer=dearer))
    assert verdict["equal_flops_by"] == verdict["token_multiplier_by"] == "measured"
    assert verdict["difference"]["value"] > 0 > truth(1.1)  # other answers than at equal tokens
    assert verdict["difference_at_equal_flops"]["value"] == pytest.approx(truth(1.1 * dearer), abs=2e-3)


def test_without_a_law_the_tokens_for_equal_loss_are_between_the_budgets():
    """mfa needs the tokens at which B/D^β of its law is that of mha."""
    needed = (MFA.B / NANO.B) ** (1 / NANO.beta)
    found = of_mfa(ladder())["token_multiplier"]
    assert found["value"] == pytest.approx(needed, rel=5e-3) and found["low"] == pytest.approx(found["high"])


def test_the_interval_holds_the_truth():
    generator = np.random.default_rng(3)
    held = [
        row["low"] <= truth(1.1) <= row["high"]
        for row in (of_mfa(ladder(0.01, generator))["difference_at_equal_flops"] for _ in range(400))
    ]
    assert 0.92 < np.mean(held) < 0.98


def test_where_the_budgets_do_not_reach_a_law_answers_if_there_is_one():
    """Two budgets are too few, and eight times the FLOPs too many; the law moves mfa to the tokens of mha's FLOPs."""
    for budgets, dearer in ((BUDGETS[:2], 1.0), (BUDGETS, 8.0)):
        runs = ladder(budgets=budgets, dearer=dearer)
        assert of_mfa(runs)["difference_at_equal_flops"] is None
        found = of_mfa(runs, LAWS)
        true = np.mean([NANO(PARAMS, tokens) - MFA(PARAMS, tokens / (1.1 * dearer)) for tokens in budgets])
        assert found["equal_flops_by"] == "law" and found["difference_at_equal_flops"]["value"] == pytest.approx(true)
    assert of_mfa(ladder(budgets=BUDGETS[:2]))["token_multiplier"] is None
    multiplier = of_mfa(ladder(budgets=BUDGETS[:2]), LAWS)
    assert multiplier["token_multiplier_by"] == "law"
    assert multiplier["token_multiplier"]["value"] == pytest.approx((MFA.B / NANO.B) ** (1 / NANO.beta), rel=1e-2)


def test_a_curve_ends_soon_past_its_budgets():
    runs = ladder()["mha"]
    measured = Measured(runs)
    for tokens in (2e8 * 1.04, 5e7 / 1.04):
        assert measured.loss(runs[0], tokens) == pytest.approx(NANO(PARAMS, tokens), abs=1e-3)
        assert measured.tokens(runs[0], NANO(PARAMS, tokens)) == pytest.approx(tokens, rel=1e-2)
    assert measured.loss(runs[0], 2e8 * 1.06) is None and measured.loss(runs[0], 5e7 / 1.06) is None
    assert measured.tokens(runs[0], NANO(PARAMS, 2e8 * 1.2)) is None
    assert all(measured.tokens(run, run.loss) == pytest.approx(run.tokens) for run in runs)


def series(*points: tuple[float, float]) -> list[Run]:
    return [
        Run("", "", size="4x192", order=DataOrder("data", None, 1, 256), params=PARAMS, tokens=tokens, loss=loss)
        for tokens, loss in points
    ]


def test_runs_of_one_budget_are_one_point_in_any_order():
    runs = series((1e6, 3.6), (2e6, 3.0), (2e6, 3.2), (2.008e6, 3.1), (4e6, 2.8))
    plain = Measured(series((1e6, 3.6), (2e6, 3.1), (4e6, 2.8)))
    for seed in range(4):
        random.Random(seed).shuffle(runs)
        assert Measured(runs).loss(runs[0], 2.9e6) == pytest.approx(plain.loss(runs[0], 2.9e6), abs=1e-12)


def test_a_loss_that_a_curve_has_twice_needs_no_number_of_tokens():
    for losses in ((3.0, 2.8, 2.9), (3.0, 3.0, 3.0), (3.1, 2.85, 2.85)):
        runs = series(*zip(BUDGETS, losses))
        assert Measured(runs).tokens(runs[0], losses[1] + 0.05 * (losses[2] > losses[1])) is None


def test_the_kv_frontier_at_equal_flops_says_what_it_lacks_and_what_it_rests_on():
    runs = [run for own in ladder().values() for run in own]
    rows, said = loss_over_kv(runs, NO_LAW, "mha")
    found = {(row["variant"], row["cell_tokens"]): row for row in rows if row["accounting"] == "flops"}
    assert found["mfa", 2e8]["loss"]["value"] == pytest.approx(MFA(PARAMS, 2e8 / 1.1), abs=2e-3)
    assert found["mfa", 2e8]["tokens"] == pytest.approx(2e8 / 1.1) and found["mfa", 2e8]["by"] == "measured"
    assert ("mfa", 5e7) not in found and ("mla", 5e7) in found
    assert said == [
        "at equal FLOPs mfa cannot be shown beside the others at size 4x192 (50M tokens): the reference's FLOPs lie "
        "outside the token budgets that they were trained on, and there is no law to go by"
    ]
    rows, said = loss_over_kv(runs, LAWS, "mha")
    (smallest,) = [
        row for row in rows if row["accounting"] == "flops" and (row["variant"], row["cell_tokens"]) == ("mfa", 5e7)
    ]
    assert not said and smallest["by"] == "law"
    assert smallest["loss"]["value"] == pytest.approx(MFA(PARAMS, 5e7 / 1.1))
