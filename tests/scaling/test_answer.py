"""The answer of a comparison: what is known of made-up studies is what its sentences say."""

import itertools
from dataclasses import asdict

import numpy as np
from scipy import stats

from mfa_train.scaling.compare import compare
from mfa_train.scaling.laws.fits import VariantFit
from mfa_train.scaling.report.terminal import WIDTH, told, told_notices
from mfa_train.scaling.study.gather import gather
from mfa_train.scaling.study.runs import Run
from mfa_train.scaling.study.size_names import count_name, size_names
from mfa_train.scaling.verdicts.answer import answer
from mfa_train.scaling.verdicts.by_size import by_size, sizes_differ
from mfa_train.scaling.verdicts.enough import seeds_for
from mfa_train.scaling.verdicts.paired import verdicts
from tests.scaling.synthetic import NANO, Law, Variant, write_ladder


def study(losses: dict[str, tuple[float, float]], sizes=("3x64", "3x96"), seeds=3, noise=0.002) -> dict[str, list[Run]]:
    """Of each variant (loss, KV bytes): runs with a seed's common part, and each its own noise."""
    draw = np.random.default_rng(11)
    common = {(size, seed): draw.normal(0, 0.02) for size in sizes for seed in range(seeds)}
    return {
        name: [
            Run(
                f"{name}-{size}-{seed}",
                "",
                attention=name,
                variant=name,
                size=size,
                seed=seed,
                order=("data", seed),
                params=1e6,
                tokens=1e8,
                kv_bytes_per_token=cache,
                loss=loss + common[size, seed] + draw.normal(0, noise),
            )
            for size, seed in itertools.product(sizes, range(seeds))
        ]
        for name, (loss, cache) in losses.items()
    }


def answered(variants: dict[str, list[Run]]) -> dict:
    found = verdicts(variants, {name: VariantFit("none") for name in variants})
    means = {name: float(np.mean([run.loss for run in runs])) for name, runs in variants.items()}
    return answer(found, "mha", means, len(variants))


def test_better_worse_and_level_are_told_apart():
    found = answered(study({"mha": (3.0, 800), "mfa": (2.95, 100), "mla": (3.08, 100), "gqa": (3.0, 200)}))
    assert {row["variant"]: row["said"] for row in found["against"]} == {
        "mfa": "better",
        "mla": "worse",
        "gqa": "level",
    }
    first, second, third = found["sentences"]
    assert first.startswith("Shown to be better than mha: mfa (0.125 of mha's cache) by 0.05")
    assert "; shown to be worse: mla (0.125 of mha's cache) by 0.0" in first
    assert second.startswith("Not worth their cache, since another with no more of it is shown to be better: ")
    assert "mla (by mfa, 0.13)" in second and "gqa (by mfa, 0.0" in second
    assert third == "Level with mha to within 0.5% of the loss: gqa (0.25 of mha's cache)."


def test_what_is_not_shown_is_shown_by_as_many_more_seeds_as_are_asked_for():
    losses = {"mha": (3.0, 800), "mfa": (2.97, 100)}
    few = answered(study(losses, sizes=("3x64",), seeds=3, noise=0.015))
    (row,) = few["against"]
    assert row["said"] == "open" and 1 <= row["more_seeds"] <= 100
    (first, third) = few["sentences"]
    assert first == "No variant is shown to be better or worse than mha."
    assert f"({row['more_seeds']} more); so many more seeds would show it" in third
    (row,) = answered(study(losses, sizes=("3x64",), seeds=3 + row["more_seeds"] + 8, noise=0.015))["against"]
    assert row["said"] == "better"


def test_one_seed_shows_nothing_and_the_seeds_that_would_are_told():
    found = answered(study({"mha": (3.0, 800), "mfa": (2.9, 100)}, sizes=("3x64", "3x96", "3x128"), seeds=1))
    assert found["sentences"][0] == "One seed shows nothing: its runs have one data order at every size."
    assert "mfa (0.125 of mha's cache), 0.098 better (1 more at least)" in found["sentences"][1]
    single = answered(study({"mha": (3.0, 800), "mfa": (2.9, 100)}, sizes=("3x64",), seeds=1))
    assert "(1 more at least)" in single["sentences"][1]


def test_of_two_with_one_loss_one_is_shown_to_be_better_in_one_study_of_twenty():
    """Within the middle 95% of the binomial distribution."""
    wrong, studies = 0, 400
    draw = np.random.default_rng(2)
    for _ in range(studies):
        runs = study({"mha": (3.0, 800), "mfa": (3.0, 100)}, noise=0)
        for run in itertools.chain(*runs.values()):
            run.loss += draw.normal(0, 0.01)
        wrong += answered(runs)["against"][0]["said"] in ("better", "worse")
    least, most = stats.binom.interval(0.95, studies, 0.05)
    assert least <= wrong <= most


def of_sizes(by_size: dict[str, list[float]]) -> dict:
    """The answer about mfa, whose loss less mha's is given of each size, seed by seed."""
    runs = study({"mha": (3.0, 800), "mfa": (3.0, 800)}, tuple(by_size), max(map(len, by_size.values())), noise=0)
    losses = {(run.size, run.seed): run.loss for run in runs["mha"]}
    for run in runs["mfa"]:
        run.loss = (
            losses[run.size, run.seed] + by_size[run.size][run.seed] if run.seed < len(by_size[run.size]) else None
        )
    runs["mfa"] = [run for run in runs["mfa"] if run.loss is not None]
    return answered(runs)


def test_what_sizes_differ_by_is_told_by_size_and_asks_for_no_seeds():
    """The nano ladder's MFA at a quarter of MHA's cache."""
    larger = {"570k": [0.34, 0.23, 0.17], "860k": [0.19, 0.27]}
    found = of_sizes({"280k": [-0.02, -0.024, -0.018], **larger})  # of one pair it is shown
    assert found["sentences"][0].endswith("worse: mfa by 0.14 [0.022, 0.26] (but 0.021 better at 280k).")
    found = of_sizes({"280k": [-0.2, -0.24, -0.18], **larger})
    (row,) = found["against"]
    assert row["said"] == "open" and row["sizes_differ"] and row["more_seeds"] is None
    assert found["sentences"][1] == (
        "Not shown over all sizes, and the order changes with the size: mfa, 0.21 better at 280k, 0.25 worse at 570k, "
        "0.23 worse at 860k."
    )
    found = of_sizes({"280k": [-0.2, 0.04, -0.1], **larger})  # which is ahead at 280k depends on the seed
    assert "and the difference changes with the size: mfa, 0.087 better at 280k, 0.25" in found["sentences"][1]
    found = of_sizes({"280k": [0.05, 0.06, 0.055], **larger})
    assert found["sentences"][0].endswith("(from 0.055 at 280k to 0.25 at 570k).")


def test_where_sizes_do_not_differ_seeds_are_counted_by_the_spread_within_them():
    differences = {"280k": [-0.03, 0.05], "570k": [0.04, -0.02], "860k": [0.035, -0.01]}
    (row,) = of_sizes(differences)["against"]
    within = np.sqrt(sum(np.var(own, ddof=1) for own in differences.values()) / 3)  # three degrees of freedom
    mean = np.mean(list(differences.values()))
    assert row["more_seeds"] == seeds_for(mean, within, sizes=3) - 2 and not row["sizes_differ"]


def test_sizes_that_do_not_differ_are_said_to_in_one_study_of_twenty():
    draw, studies = np.random.default_rng(4), 2000
    sizes = ["a"] * 3 + ["b"] * 3 + ["c"] * 2
    wrong = sum(sizes_differ(by_size(draw.normal(0.1, 0.02, 8), sizes)) for _ in range(studies))
    least, most = stats.binom.interval(0.95, studies, 0.05)
    assert least <= wrong <= most
    same = by_size(np.full(8, 0.1), sizes)
    assert same["p_sizes"] is None and not sizes_differ(same)
    assert by_size(np.array([0.1, 0.2]), ["a", "b"])["within_sizes"] is None  # one seed


def test_one_and_the_same_difference_in_every_unit_is_not_shown():
    """Sums of floats leave a spread of 1e-16, and so a p of 1e-30."""
    found = of_sizes({"280k": [0.1, 0.1, 0.1], "570k": [0.1, 0.1, 0.1]})
    assert found["against"][0]["said"] == "open" and found["against"][0]["p_holm"] is None
    assert "mfa, 0.1 worse (the same in every unit)" in found["sentences"][1]


def test_without_pairs_laws_answer_and_of_one_variant_its_law(tmp_path):
    draw = np.random.default_rng(7)
    rows = ["N,D,loss,group"]
    worse = Law(**{**asdict(NANO), "E": 2.1})
    for name, law in (("a", NANO), ("b", worse)):
        rows += [
            f"{n},{d},{law(n, d) * np.exp(draw.normal(0, 1e-3))},{name}"
            for n, d in itertools.product((1e6, 3e6, 1e7, 3e7), (1e8, 3e8, 1e9))
        ]
    (tmp_path / "two.csv").write_text("\n".join(rows))
    sentences = compare(gather([tmp_path / "two.csv"]))["answer"]["sentences"]
    assert sentences[0].startswith("Nothing can be held against another: no run says its seed")
    assert sentences[1].startswith("By their laws") and "b +0." in sentences[1]
    (tmp_path / "one.csv").write_text("\n".join(row for row in rows if not row.endswith(",b")))
    result = compare(gather([tmp_path / "one.csv"]))
    assert result["answer"]["sentences"][1].startswith("Its law: E 1.")
    assert result["answer"]["why_no_law"] == "" and "alpha" in told(result)


def test_a_study_of_eleven_variants_is_one_screen_at_the_terminal(tmp_path):
    variants = [
        Variant("mha", NANO, 1.0),
        *(Variant("mfa", Law(**{**asdict(NANO), "B": 880.0 + 15 * index}), 0.1 + 0.05 * index) for index in range(10)),
    ]
    for index, variant in enumerate(variants):
        write_ladder(tmp_path / str(index), [variant], {"4x192": 3.2e6, "6x320": 9.1e6}, (5e7,), (1, 2), records=3)
        for run in (tmp_path / str(index)).iterdir():
            text = (run / "config.yaml").read_text().replace("weight_decay: 0.1", f"weight_decay: 0.{index + 1:02}")
            (run / "config.yaml").write_text(text)
    result = compare(gather([tmp_path / str(index) for index in range(len(variants))]))
    assert len(result["variants"]) == 11
    lines = (told(result) + told_notices(result, "report/index.html")).splitlines()
    assert len(lines) <= 38 and max(map(len, lines)) <= 120
    assert all(len(line) <= WIDTH for line in lines if line.startswith(("No variant", "Shown", "  ", "notice")))
    (row,) = [line for line in lines if line.startswith("mha ")]
    largest = [run["loss"] for run in result["runs"] if run["variant"] == "mha" and run["size"] == "6x320"]
    assert f"{np.mean(largest):.4f} [" in row and "reference" in row


def test_sizes_are_called_by_their_models_names_or_their_parameters():
    def run(size: str, params: float, name: str | None) -> Run:
        return Run("", "", size=size, params=params, config={} if name is None else {"model.name": name})

    named = [run("3x128", 855_936, "860k"), run("3x64", 282_048, "280k"), run("3x64", 281_304, "280k")]
    assert list(size_names(named).items()) == [("3x64", "280k"), ("3x128", "860k")]
    assert size_names([run("3x64", 282_048, "nano"), run("4x64", 1.31e9, "nano")]) == {"3x64": "280k", "4x64": "1.3B"}
    assert size_names([run("3x64", 1e6, None), run("6x48", 1.01e6, None)]) == {
        "3x64": "1M (3x64)",
        "6x48": "1M (6x48)",
    }
    assert [count_name(value, 3) for value in (999, 1536, 2.256e6, 1e12)] == ["999", "1.54k", "2.26M", "1T"]
