"""Scores on tasks in a comparison: what is claimed of them, of which documents and seeds, and that damaged files and
other documents claim nothing."""

import csv
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mfa_train import config as configs
from mfa_train.scaling.compare import compare as compare_study
from mfa_train.scaling.report import report as report_module
from mfa_train.scaling.report.terminal import told
from mfa_train.scaling.study.gather import gather
from mfa_train.scaling.study.pack import pack
from mfa_train.scaling.verdicts.documents import apart, held_apart, mcnemar
from tests.scaling.scores_simulated import claimed, of_several_seeds
from tests.scaling.synthetic import DOCUMENTS, write_scores


def found(runs: Path, **given) -> dict:
    result = compare_study(gather([runs]), **given)
    json.dumps(result, allow_nan=False)
    return result


def rows(result: dict, **what) -> list[dict]:
    return [row for row in result["evaluations"] if row.items() >= what.items()]


def sentences(result: dict) -> str:
    return " ".join(sentence for cell in result["evaluations_told"] for sentence in cell["sentences"])


def discordant(more: int, less: int, alike: int) -> np.ndarray:
    return np.repeat([1, -1, 0], [more, less, alike])


@pytest.mark.parametrize(
    "more, less, p",
    [
        (121, 59, 4.434e-06),  # statsmodels' test of its mcnemar(exact=True): [[101, 121], [59, 33]]
        (2, 1, 1.0),  # [[4, 2], [1, 3]], its best-known example
        (150, 86, 3.716e-05),  # approval ratings (Agresti 1990, p. 350), as R's exact2x2 has it
        (0, 0, 1.0),
    ],
)
def test_right_and_wrong_answers_are_compared_by_mcnemars_exact_test(more, less, p):
    assert mcnemar(discordant(more, less, 40)) == pytest.approx(p, rel=1e-3)
    held = held_apart(apart(discordant(more, less, 40)[None], True), [])
    assert held["p"] == (None if more == less == 0 else pytest.approx(p, rel=1e-3))


def test_one_part_alone_is_students_test_and_p_goes_with_the_interval():
    draw = np.random.default_rng(5)
    one = draw.normal(0.1, 1, (1, 300))
    held, student = held_apart(apart(one, False), []), stats.ttest_1samp(one[0], 0)
    assert held["p"] == pytest.approx(student.pvalue) and held["test"] == "paired t"
    assert [held["difference"][end] for end in ("low", "high")] == pytest.approx(list(student.confidence_interval()))
    of_seeds = np.repeat(draw.normal(0.1, 1, (4, 1)), 300, axis=1)  # every document alike: seeds alone vary
    held = held_apart(apart(of_seeds, False), [of_seeds.mean(1)])
    assert held["p"] == pytest.approx(stats.ttest_1samp(of_seeds.mean(1), 0).pvalue)
    for mean in np.linspace(0, 0.5, 20):
        values = mean + draw.normal(0, 0.2, (3, 1)) + draw.normal(0, 1, (3, 100))
        held = held_apart(apart(values, False), [values.mean(1)])
        assert (held["p"] < 0.05) == (held["difference"]["low"] * held["difference"]["high"] > 0)


@pytest.mark.parametrize("seeds, sizes", [(2, 1), (3, 1), (2, 3)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds, sizes):
    """Documents alone would hold it far less often where seeds do something."""
    found = of_several_seeds(seeds, sizes, 200, (0.1, 1.0, 0.5), 250)
    assert found["Banerjee"][0] > 0.93 and found["documents alone"][0] < 0.9
    assert found["Banerjee"][1] < found["smaller degrees of freedom"][1]


def test_where_nothing_differs_seldom_anything_is_claimed_but_of_one_seeds_runs():
    bits, accuracy, best = claimed(3, 1, 0.05, 20)
    assert max(bits, accuracy, best) <= 0.1
    bits, _, best = claimed(1, 1, 0.05, 10)
    assert bits > 0.8 and best == 0  # two runs of one variant do differ


def test_of_several_seeds_a_variant_is_told_better_or_worse_and_where_nothing_is_shown(scored):
    result = found(scored)
    (mla,), (mfa,) = (rows(result, task="told", metric="bits_per_byte", variant=name) for name in ("mla", "mfa"))
    assert (mla["said"], mfa["said"], mfa["of"], mfa["shared_seeds"]) == ("worse", "better", "variants", 3)
    assert mfa["difference"]["low"] < -0.2 < mfa["difference"]["high"] < 0 and mfa["test"] == "documents and seeds"
    assert [row["variant"] for row in result["evaluations"] if row["best"]] == ["mfa"]
    assert {row["said"] for row in rows(result, task="level")} == {"open", "reference"}
    assert {row["questions"] for row in rows(result, variant="mfa")} == {4}  # of each metric, two variants on two tasks
    assert mfa["p_holm"] >= mfa["p"] and not mfa["higher_is_better"]
    told_of = sentences(result)
    assert "(4 questions): shown to be better than mha: mfa on told by 0." in told_of
    assert "; shown to be worse than mha: mla on told by 0." in told_of
    assert "Not shown either way: 2 of 4 (mfa on level; mla on level)." in told_of
    assert len(result["answer"]["sentences"]) <= 3 and "told" not in " ".join(result["answer"]["sentences"])
    at_terminal = told(result)
    assert told_of.split(":")[0] in at_terminal and "▲*" in at_terminal and "▼" in at_terminal
    assert max(map(len, at_terminal.splitlines())) <= 120


def test_of_one_seed_two_runs_are_told_apart_and_never_two_attentions(scored):
    for run in scored.iterdir():
        if not run.name.endswith("seed1"):
            (run / "summary.json").unlink()
    result = found(scored)
    (mfa,) = rows(result, task="told", metric="bits_per_byte", variant="mfa")
    assert (mfa["said"], mfa["of"], mfa["test"]) == ("better", "runs", "paired t") and mfa["p_holm"] < 1e-6
    assert {row["test"] for row in rows(result, metric="acc")} == {"McNemar, exact", None}
    assert (
        "of one seed: they tell two runs apart, not two attentions): shown to be better than mha's: mfa's on told"
        in (sentences(result))
    )
    assert not any(row["best"] for row in result["evaluations"])
    at_terminal = " ".join(told(result).split())
    assert "△" in at_terminal and "▲" not in at_terminal and "of these two runs alone" in at_terminal


def test_a_difference_that_only_seeds_make_is_not_shown(scored):
    """A hundred times what documents alone would take for chance."""
    for run in scored.iterdir():
        write_scores(run, "told", seeds=0.3)
    (mfa,) = rows(found(scored), task="told", metric="bits_per_byte", variant="mfa")
    assert mfa["said"] == "open" and mfa["p"] > 0.05


def test_best_is_only_what_is_shown_against_every_other(scored):
    for run in scored.glob("mla-*"):
        write_scores(run, "told", -0.2)
    result = found(scored)
    assert {row["said"] for row in rows(result, task="told", metric="bits_per_byte")} == {"better", "reference"}
    assert not any(row["best"] for row in result["evaluations"])


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"limit": 400}, "limit"),
        ({"task_version": "2.0"}, "task version"),
        ({"documents_sha256": "e" * 64}, "set of documents"),
    ],
)
def test_scores_of_other_documents_are_paired_with_none_and_told_once(changes, what, scored):
    for run in scored.glob("mfa-*"):
        write_scores(run, "told", -0.2, **changes)
    result = found(scored)
    (mfa,) = rows(result, task="told", metric="bits_per_byte", variant="mfa")
    assert (mfa["said"], mfa["difference"], mfa["p"], mfa["best"]) == ("not paired", None, None, False)
    (mla,) = rows(result, task="told", metric="bits_per_byte", variant="mla")
    assert mla["said"] == "worse" and mla["questions"] == 3
    (notice,) = [notice for notice in result["notices"] if "scores on" in notice]
    assert notice.startswith(f"scores on told of another {what} than most runs") and "(3: mfa-" in notice
    assert "°" in told(result) and "mfa on told" not in sentences(result)


def changed(**changes):
    return lambda content: json.dumps(content | changes)


DAMAGE = {
    "cut off": lambda content: json.dumps(content)[:-100],
    "no object": lambda content: "[1]",
    "another format": changed(format=2),
    "too deep": lambda content: "[" * 100_000,
    "too large": lambda content: json.dumps(content) + " " * 5 * 2**20,
    "no number": lambda content: json.dumps(content).replace(
        '"by_document": {"acc": [', '"by_document": {"acc": [NaN, '
    ),
    "a list too short": changed(documents=DOCUMENTS + 1),
    "another step": changed(step=7),
    "no metrics": changed(metrics={}),
    "a metric that is none": changed(metrics={"bits_per_byte": 2.0}),
    "a mean of other documents": changed(
        metrics={"bits_per_byte": {"value": 9.0, "stderr": 0.1, "higher_is_better": False}}
    ),
    "beyond measure": changed(by_document={"bits_per_byte": [1e300] * DOCUMENTS}),
    "a number of a thousand digits": lambda content: json.dumps(
        content | {"by_document": {"bits_per_byte": []}}
    ).replace("[]", f"[{', '.join(['1' + '0' * 1000] * DOCUMENTS)}]"),
    "a task without a name": changed(task=None),
    "a limit that is none": changed(limit=[1]),
}


def test_a_damaged_file_of_scores_is_told_and_costs_itself_alone(scored):
    runs = list(scored.glob("*-seed1"))
    victim = next((next(scored.glob("mfa-*seed1")) / "evaluations").glob("told-*"))
    whole = json.loads(victim.read_text())
    for how, damaged in DAMAGE.items():
        victim.write_text(damaged(whole))
        study = gather(runs)
        (notice,) = [one for one in study.notices if "files of scores that cannot be read" in one]
        assert f"mfa-4x192-5e07-seed1 {victim.name} (" in notice and "\n" not in notice and len(notice) < 700, how
        tasks = {run.name: list(run.evaluations.by_task) for run in study.used}
        assert len(tasks) == 3 and tasks.pop("mfa-4x192-5e07-seed1") == ["level"], how
        assert set(map(tuple, tasks.values())) == {("level", "told")}, how


def test_scores_of_earlier_states_are_not_compared_and_it_is_told(scored):
    for run in scored.glob("mfa-*"):
        for path in (run / "evaluations").iterdir():
            path.unlink()
        write_scores(run, "told", -0.2, step=100, checkpoint="step-100")
    result = found(scored)
    assert not rows(result, variant="mfa")
    (notice,) = [notice for notice in result["notices"] if "earlier states" in notice]
    assert "(3; mfa-train evaluate RUN scores the last): mfa-" in notice


def test_of_scores_with_several_limits_those_of_the_most_documents_count(scored):
    before = found(scored)["evaluations"]
    for run in scored.glob("mfa-*"):
        name = next((run / "evaluations").glob("told-*"))
        content = json.loads(name.read_text())
        metrics = {key: one | {"value": content["by_document"][key][0]} for key, one in content["metrics"].items()}
        few = {key: values[:1] for key, values in content["by_document"].items()}
        limited = content | {"limit": 1, "documents": 1, "by_document": few, "metrics": metrics}
        name.with_name(name.name.replace("-step-", "-limit-1-step-")).write_text(json.dumps(limited))
    assert found(scored)["evaluations"] == before


def test_without_scores_the_report_has_nothing_of_them(scored, tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "_pictures", lambda *_: ([], ""))  # they take the time

    def written(name: str) -> dict[str, str]:
        out = tmp_path / name
        report_module.write_report(gather([scored]), out, configs.load(["tracking=none"]).tracking)
        return {path.name: path.read_text() for path in out.iterdir()}

    with_scores = written("with")
    assert "evaluations.csv" in with_scores and "scoresOnTasks" in with_scores["index.html"]
    assert "told bits_per_byte" in with_scores["runs.csv"].splitlines()[0]
    table = list(csv.DictReader(with_scores["evaluations.csv"].splitlines()))
    listed = json.loads(with_scores["fit.json"])["evaluations"]
    assert [float(row["value"]) for row in table] == [row["value"] for row in listed] and len(table) == 12
    for path in scored.glob("*/evaluations/*"):
        path.unlink()
    without = written("without")
    assert without.keys() == with_scores.keys() - {"evaluations.csv"}
    ours, theirs = (json.loads(files["fit.json"]) for files in (without, with_scores))
    assert theirs.keys() - ours.keys() == {"evaluations", "evaluations_told"}
    assert theirs["conventions"].keys() - ours["conventions"].keys() == {"scores"}
    assert all("scores" not in run for run in ours["runs"])
    assert not any(
        word in text for word in ("scoresOnTasks", "evaluations_told", "McNemar") for text in without.values()
    )


def test_scores_travel_in_an_archive_and_what_is_no_file_of_scores_does_not(scored, tmp_path):
    in_folders, said = found(scored), []
    run = next(scored.glob("mfa-*seed1"))
    (run / "evaluations" / "notes.txt").write_text("mine")
    (run / "evaluations" / "large.json").write_text(" " * 5 * 2**20)
    (run / "evaluations" / "linked.json").symlink_to("/etc/passwd")
    pack([scored], tmp_path / "study.zip", said.append)
    assert sorted(said) == [
        f"notice: left out: {run.name}/evaluations/large.json: has 5,242,880 bytes, expected at most 4,194,304",
        f"notice: left out: {run.name}/evaluations/linked.json: is a link",
    ]
    pack([tmp_path / "study.zip"], tmp_path / "again.zip", said.append)
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "study.zip").read_bytes()
    assert pack([scored], tmp_path / "study.zip", said.append).replaced == 9
    names = zipfile.ZipFile(tmp_path / "study.zip").namelist()
    assert sum("/evaluations/" in name for name in names) == 18
    in_archive = found(tmp_path / "study.zip")
    assert in_archive["evaluations"] == in_folders["evaluations"]
    assert sentences(in_archive) == sentences(in_folders)


def test_scores_that_are_damaged_in_an_archive_cost_themselves_alone(scored, tmp_path):
    pack([scored], tmp_path / "study.zip", lambda _: None)
    data = bytearray((tmp_path / "study.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "study.zip") as archive:
        entry = next(entry for entry in archive.infolist() if "mfa-4x192-5e07-seed1/evaluations/told" in entry.filename)
    data[entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2] ^= 0xFF
    (tmp_path / "study.zip").write_bytes(data)
    study = gather([tmp_path / "study.zip"])
    assert len(study.used) == 9
    assert any(
        "files of scores that cannot be read" in one and "damaged in the archive" in one for one in study.notices
    )
    (mfa,) = rows(compare_study(study), task="told", metric="bits_per_byte", variant="mfa")
    assert (mfa["seeds"], mfa["shared_seeds"]) == (2, 2)


def test_numbers_at_the_edge_stay_numbers():
    held = held_apart(apart(np.random.default_rng(1).normal(5, 1e-6, (3, 100)), False), [np.array([5, 5.1, 4.9])])
    assert 0 < held["p"] < 1 and math.isfinite(held["difference"]["high"])
    far = held_apart(apart(np.random.default_rng(1).normal(1e9, 1, (1, 10_000)), False), [])
    assert 0 < far["p"] < 1e-100
    assert held_apart(apart(np.ones((3, 100)), True), [np.ones(3)])["p"] is None  # seeds that never differ
    assert held_apart(apart(np.ones((1, 19)), True), [])["p"] is None  # too few documents
