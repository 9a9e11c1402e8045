"""`mfa-train compare` as a user types it: what it finds, what it refuses, what it says, how long it takes."""

import csv
import itertools
import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from mfa_train import config as configs
from mfa_train.scaling import compare as compare_module
from mfa_train.scaling.compare import compare as compare_study
from mfa_train.scaling.report import page_file, thinning
from mfa_train.scaling.report import report as report_module
from mfa_train.scaling.report import tables as tables_module
from mfa_train.scaling.study import drawn
from mfa_train.scaling.study.gather import gather
from tests.scaling.synthetic import (
    HOFFMANN,
    NANO,
    SIZES,
    VARIANTS,
    Law,
    Variant,
    asdict,
    edit,
    write_ladder,
)

QUIET = "tracking=none"


def named(rows: list[dict], **what) -> dict:
    (found,) = [row for row in rows if row.items() >= what.items()]
    return found


def test_a_ladder_gives_back_its_laws_answers_and_verdicts(report):
    found = json.loads((report / "fit.json").read_text())
    for variant in VARIANTS:
        fit = found["variants"][variant.attention]["fit"]
        assert fit["method"] == "separate"
        for key in ("E", "A", "alpha", "B", "beta"):
            assert fit[key]["low"] <= getattr(variant.law, key) <= fit[key]["high"]
    largest = max(row["compute"] for row in found["at_budgets"] if row["accounting"] == "parameters")
    answer = named(found["at_budgets"], accounting="parameters", variant="mla", compute=largest)
    assert answer["difference"]["low"] > 0 and answer["multiplier"]["high"] < 1 and answer["reference"] == "mha"
    verdict = named(found["verdicts"], a="mfa", b="mha")
    true = np.mean([VARIANTS[2].law(n, d) - NANO(n, d) for n in SIZES.values() for d in (5e7, 1.5e8, 4.5e8)])
    assert (verdict["pairs"], verdict["units"]) == (27, 9)
    assert verdict["difference"]["value"] == pytest.approx(true, abs=2e-3)
    assert (
        verdict["p_signs"] == pytest.approx(2 / 2**9)
        and verdict["p_t"] < 1e-4
        and verdict["token_multiplier"]["low"] > 1
    )
    # 10% more FLOPs a token cost mfa more than its loss is worth.
    assert verdict["difference"]["high"] < 0 < verdict["difference_at_equal_flops"]["low"]
    assert verdict["kv_ratio"] == pytest.approx(0.17, rel=0.01)
    frontier = [row for row in found["loss_over_kv"] if row["size"] == "8x512" and row["accounting"] == "parameters"]
    assert {row["variant"] for row in frontier if row["on_frontier"]} == {"mfa"}


def test_every_number_traces_to_runs_configs_data_and_code(report):
    found = json.loads((report / "fit.json").read_text())
    runs = {run["name"]: run for run in found["runs"]}
    assert len(runs) == 81
    for run in runs.values():
        assert len(run["config_sha256"]) == len(run["data"]["train_sha256"]) == 64 and len(run["code_commit"]) == 40
    for variant in found["variants"].values():
        assert set(variant["runs"]) <= runs.keys() and len(variant["runs"]) == 27
    one, other, difference = found["verdicts"][0]["runs"][0]
    assert difference == runs[one]["loss"] - runs[other]["loss"] and runs[one]["seed"] == runs[other]["seed"]
    for name in ("laws", "at_budgets", "verdicts", "loss_over_kv", "runs"):
        with (report / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows and all(
            "Huber" in row["conventions"] and "embeddings included" in row["conventions"] for row in rows
        )
    for name in ("laws", "loss_over_kv_flops", "loss_over_compute_parameters", "loss_over_tokens"):
        assert (report / f"{name}.png").stat().st_size > 5000
        assert "<svg" in (report / f"{name}.svg").read_text()


def test_a_table_of_points_is_fitted_under_the_published_columns(compare, tmp_path):
    """Besiroglu et al. publish model size and FLOPs; tokens are C / 6N."""
    draw = np.random.default_rng(7)
    n = np.exp(draw.uniform(np.log(5.7e7), np.log(1.6e10), 240))
    c = np.exp(draw.uniform(np.log(1.4e18), np.log(1.3e22), 240))
    loss = HOFFMANN(n, c / (6 * n)) * np.exp(draw.normal(0, 0.01, 240))
    with (tmp_path / "points.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("Model Size", "Training FLOP", "loss"), *zip(n, c, loss)])
    done = compare(tmp_path / "points.csv", "--out", tmp_path / "report", "--budget", "1e23", QUIET)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report" / "fit.json").read_text())
    for key, value in asdict(HOFFMANN).items():
        fitted = found["variants"]["points"]["fit"][key]
        assert fitted["low"] <= value <= fitted["high"]
    assert {row["compute"] for row in found["at_budgets"]} == {1e23} and found["conventions"][
        "parameters"
    ] == "as given"
    assert all(row["extrapolated"] for row in found["at_budgets"])


def test_no_runs_and_no_such_run_are_one_line(compare, tmp_path):
    (tmp_path / "empty").mkdir()
    for typed, status, line in (
        (["no/such/run"], 2, "no/such/run: no such run; type run folders"),
        ([tmp_path / "empty"], 1, "no finished run to compare"),
        ([tmp_path / "empty", "--budget", "lots"], 2, "--budget lots: expected FLOPs above 0"),
    ):
        done = compare(*typed, "--out", tmp_path / "report", QUIET)
        assert done.returncode == status and line in done.stderr.splitlines()[-1], done.stderr
    assert not (tmp_path / "report").exists()


def test_runs_of_different_data_orders_are_no_pairs_and_it_is_said(few):
    for run in few.glob("mfa-*"):
        (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("\nseed: ", "\nseed: 7"))
    found = compare_study(gather([few]))
    assert found["verdicts"] == []
    assert any("not trained on the same data orders" in notice for notice in found["notices"])
    assert any("no paired verdicts" in notice for notice in found["notices"])


def test_weights_drawn_in_another_way_make_no_pairs_though_the_seed_is_one_and_it_is_said(few):
    for run in few.glob("mfa-*"):
        text = (run / "config.yaml").read_text()
        assert "draw: 2" in text
        (run / "config.yaml").write_text(text.replace("draw: 2", "draw: 1"))
    found = compare_study(gather([few]))
    assert found["verdicts"] == []
    assert any("model.initialization.draw differ" in notice for notice in found["notices"])
    assert any("share" in notice and "model.initialization.draw: no paired" in notice for notice in found["notices"])


def test_a_folder_with_other_files_is_not_written_into(few, compare, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = compare(few, "--out", tmp_path / "mine", QUIET)
    assert done.returncode == 2 and "holds files that are no report" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_report_that_was_broken_off_is_written_again(few, tmp_path, monkeypatch):
    def interrupted(*_) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(report_module, "_pictures", interrupted)
        report_module.write_report(gather([few]), tmp_path / "out", configs.load(["tracking=none"]).tracking)
    assert list((tmp_path / "out").iterdir()) == []
    report_module.write_report(gather([few]), tmp_path / "out", configs.load(["tracking=none"]).tracking)
    assert list((tmp_path / "out").glob("*.png"))


def test_runs_of_one_cell_are_one_pair_with_their_mean_and_caches_of_sizes_are_a_range(tmp_path):
    runs = write_ladder(tmp_path, VARIANTS[:2], {"4x192": 3.2e6, "6x320": 9.1e6}, (5e7,), (1, 2))
    for run in runs:
        if run.name.startswith("mla-4x192"):
            edit(run, kv_bytes_per_token=1000)
            twin = Path(shutil.copytree(run, f"{run}-again"))
            (twin / "config.yaml").write_text(
                (twin / "config.yaml").read_text().replace("\n  lr: 0.004", "\n  lr: 0.008")
            )
            edit(twin, val_loss=json.loads((run / "summary.json").read_text())["val_loss"] + 0.2)
    (verdict,) = compare_study(gather([tmp_path], by=("attention.name",)))["verdicts"]
    (plain,) = compare_study(gather(list(runs)))["verdicts"]
    assert verdict["pairs"] == plain["pairs"] == 4 and " + " in verdict["runs"][0][1]
    assert verdict["difference"]["value"] == pytest.approx(
        plain["difference"]["value"] - 0.1 / 2
    )  # of one of two sizes
    assert verdict["also_differ"] == ["optimizer.lr"] and plain["also_differ"] == []
    least, most = verdict["kv_ratio_range"]
    assert least < verdict["kv_ratio"] < most and verdict["says"].endswith(
        f"at {least:.3g} to {most:.3g} times the cache"
    )


def test_runs_with_an_average_of_their_weights_are_compared_by_the_weights_themselves_and_it_is_said(few):
    without = compare_study(gather([few]))
    runs = list(few.glob("mfa-*"))
    for run in runs:
        text = (run / "config.yaml").read_text()
        assert "\n  ema: null" in text
        (run / "config.yaml").write_text(text.replace("\n  ema: null", "\n  ema: 0.999"))
        edit(run, val_ema_loss=0.1)
    found = compare_study(gather([few]))
    (notice,) = [notice for notice in found["notices"] if "training.ema" in notice]
    assert notice.startswith(f"{len(runs)} of ") and "val_loss" in notice
    assert found["verdicts"] == without["verdicts"] and found["variants"] == without["variants"]


def test_two_seeds_give_a_paired_verdict_without_a_law(few):
    (verdict,) = compare_study(gather([few]))["verdicts"]
    assert (verdict["pairs"], verdict["units"], verdict["token_multiplier"]) == (2, 2, None)
    assert verdict["difference"]["low"] < verdict["difference"]["value"] < verdict["difference"]["high"]
    assert verdict["p_signs"] == 0.5


def test_one_seed_gives_no_verdict_and_other_settings_are_named(tmp_path):
    """Runs of one seed read the same data at every size."""
    runs = write_ladder(tmp_path, VARIANTS[:2], seeds=(1,))
    for run in runs:
        if run.name.startswith("mla"):
            text = (run / "config.yaml").read_text()
            (run / "config.yaml").write_text(text.replace("weight_decay: 0.1", "weight_decay: 0.2"))
    found = compare_study(gather([tmp_path]))
    (verdict,) = found["verdicts"]
    assert (verdict["units"], verdict["seeds"], verdict["also_differ"]) == (3, 1, ["optimizer.weight_decay"])
    assert verdict["says"] == "one seed, and so one data order: no telling"
    assert "pairs of mha, mla differ in optimizer.weight_decay beside the attention" in found["notices"]


def test_copied_runs_and_rows_are_said_and_break_nothing(few, tmp_path, compare):
    """The mean of equal losses is not always equal to them: a picture's error bar was below zero."""
    for run in list(few.iterdir()):
        edit(run, val_loss=3.845524776726961)
        shutil.copytree(run, few / f"{run.name}-copy")
    done = compare(few, "--out", tmp_path / "out", QUIET)
    assert done.returncode == 0 and "several runs of one variant" in done.stdout, done.stderr
    table = tmp_path / "points.csv"
    table.write_text("N,D,loss,group\n" + "1e6,2e7,3.5,mha\n" * 2 + "2e6,2e7,3.3,mha\n")
    done = compare(table, "--out", tmp_path / "out", QUIET)
    assert done.returncode == 0 and "1 rows of the table stand there twice" in done.stdout, done.stderr


def test_pairs_that_never_differ_are_told_so(tmp_path):
    write_ladder(tmp_path, VARIANTS[:2], noise=0)
    for run in tmp_path.glob("mla-*"):
        edit(
            run,
            val_loss=json.loads((tmp_path / run.name.replace("mla", "mha") / "summary.json").read_text())["val_loss"],
        )
    (verdict,) = compare_study(gather([tmp_path]))["verdicts"]
    assert verdict["says"].startswith("the same loss in every pair")


def test_a_report_keeps_no_table_of_the_one_before(ladder_report, few, compare):
    assert (ladder_report / "frontiers.csv").is_file() and (ladder_report / "loss_over_compute_flops.png").is_file()
    done = compare(few, "--out", ladder_report, QUIET)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in ladder_report.iterdir()}
    assert written == {"index.html", *json.loads((ladder_report / "fit.json").read_text())["files"], "fit.json"}
    assert "frontiers.csv" not in written and "pairs.csv" in written


@pytest.fixture
def ladder_report(report, tmp_path) -> Path:
    return Path(shutil.copytree(report, tmp_path / "report"))


@pytest.mark.long
def test_a_thousand_runs_take_less_than_20_seconds(compare, tmp_path):
    variants = [
        Variant(name, Law(**{**asdict(NANO), "B": 880.0 + 10 * index}), 0.1 + 0.02 * index)
        for index, name in enumerate(("mha", "mfa", "mla", "gqa", "mqa", "tpa", "mfa_kr"))
    ]
    runs = write_ladder(
        tmp_path / "runs", variants, {**SIZES, "10x640": 7e7}, (5e7, 1e8, 2e8, 4e8, 8e8, 1.6e9), range(6), records=60
    )
    assert len(runs) == 1008
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = compare(tmp_path / "runs", "--out", tmp_path / "report", QUIET)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # processor seconds: others may be using the machine
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20
    assert (tmp_path / "report" / "index.html").stat().st_size < 6e6


def test_it_is_one_offline_run_in_wandb_with_tables_and_plots(few, compare, tmp_path):
    done = compare(few, "--out", tmp_path / "report", "tracking.wandb=offline", "tracking.group=ladder")
    assert done.returncode == 0, done.stderr
    assert "W&B: offline; look at it" in done.stdout and "W&B is off" not in done.stdout
    (run,) = (tmp_path / "report" / "wandb").glob("offline-run-*")
    media = {path.name.rpartition("_0_")[0] for path in (run / "files" / "media").rglob("*.*")}
    assert {"verdicts", "runs", "loss_over_kv_parameters", "report"} <= media


def test_of_very_many_runs_some_are_compared_and_what_is_thinned_is_said(tmp_path, monkeypatch, capsys):
    """The bounds are set low here: what happens beyond them is the same."""
    monkeypatch.setattr(drawn, "COMPARED", 600)
    monkeypatch.setattr(thinning, "ROWS", 900)
    monkeypatch.setattr(compare_module, "ROWS", 900)
    monkeypatch.setattr(tables_module, "ROWS", 900)
    monkeypatch.setattr(page_file, "PAGE_BYTES", 300_000)
    monkeypatch.setattr(report_module, "_pictures", lambda *_: ([], ""))
    draw, rows = np.random.default_rng(3), [("N", "D", "loss", "group", "seed")]
    for variant, (n, d), seed in itertools.product(
        "abc", itertools.product((1e7, 1e8, 1e9), (1e9, 1e10, 1e11)), range(70)
    ):
        rows.append(
            (n, d, HOFFMANN(n, d) * (1 + 0.01 * (variant == "b")) * np.exp(draw.normal(0, 0.004)), variant, seed)
        )
    rows += [(1e7, 1e9, 7.0, "rare", 3), ("nan", 1e9, 7.0, "a", 3)]
    with (tmp_path / "points.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    report_module.write_report(gather([tmp_path / "points.csv"]), tmp_path / "out", configs.load([QUIET]).tracking)
    told, page = capsys.readouterr().out, (tmp_path / "out" / "index.html").read_text()
    found = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert (
        "600 of 1,891 runs are compared, drawn by their sizes and seeds" in told and "thinned: index.html lists" in told
    )
    assert "thinned: runs.csv lists 900 of 1,892 rows" in told and len(page) <= 300_000
    assert "600 of 1,891 runs are compared" in page and '"counts":{"runs":1892,"used":600}' in page
    verdict = named(found["verdicts"], a="a", b="b")
    assert (
        verdict["pairs"] >= 3 * verdict["units"] - 3 > 150
        and verdict["difference"]["high"] < 0 < found["counts"]["used"]
    )
    assert "rare" in found["variants"] and any("its params is nan" in notice for notice in found["notices"])
    with (tmp_path / "out" / "runs.csv").open() as file:
        assert sum(1 for _ in csv.DictReader(file)) == 900
