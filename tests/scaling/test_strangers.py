"""One run's files, and one CSV, can be anything: what is found of the other runs stays as it is, and nothing is a
traceback."""

import copy
import csv
import json
import random
import sys
from pathlib import Path

import pytest
import yaml

from mfa_train import cli
from mfa_train import config as configs
from mfa_train.errors import ConfigError, DataError
from mfa_train.scaling.compare import compare as compare_study
from mfa_train.scaling.report import report as report_module
from mfa_train.scaling.report.tables import write_csv
from mfa_train.scaling.report.terminal import told
from mfa_train.scaling.study.data_orders import say_orders
from mfa_train.scaling.study.gather import gather
from mfa_train.scaling.study.plain_files import MOST_SHOWN, shown
from tests.scaling.synthetic import VARIANTS, edit, write_ladder

ODD = (
    None,
    True,
    -1,
    0,
    1e308,
    10**400,
    float("nan"),
    float("inf"),
    1e-320,
    3,
    "",
    "x",
    "=1+1",
    "\x1b[31m",
    "${oc.env:HOME}",
    "a" * 10_000,
    [1],
    [],
    {},
    {"a": {"b": [1]}},
)
FILES = ("config.yaml", "plan.json", "summary.json")


@pytest.fixture
def victim(few, tmp_path) -> Path:
    """A fifth run beside four good ones, its files as text of its own."""
    (run,) = write_ladder(tmp_path / "more", [VARIANTS[2]], {"4x192": 3.2e6}, (5e7,), (3,))
    return run.rename(few / run.name)


def of_the_others(runs: Path, victim: Path) -> tuple:
    """What is found of them, where the victim takes no part."""
    study = gather([runs])
    found = compare_study(study)
    json.dumps(found, allow_nan=False)
    assert {run.name for run in runs.iterdir()} - {victim.name} <= {run.name for run in study.used}
    return next(run for run in study.runs if run.source == str(victim)).excluded, [
        {key: row[key] for key in ("difference", "p_t", "says", "runs")} for row in found["verdicts"]
    ]


def test_whatever_a_key_holds_the_others_are_found_the_same(few, victim):
    draw = random.Random(7)
    before = compare_study(gather([run for run in few.iterdir() if run != victim]))["verdicts"]
    expected = [{key: row[key] for key in ("difference", "p_t", "says", "runs")} for row in before]
    for name in FILES:
        text = (victim / name).read_text()
        tree = yaml.safe_load(text) if name == "config.yaml" else json.loads(text)
        for path in draw.sample(found := list(paths(tree)), min(14, len(found))):
            changed = copy.deepcopy(tree)
            node = changed
            for key in path[:-1]:
                node = node[key]
            for node[path[-1]] in draw.sample(ODD, 3):
                (victim / name).write_text(yaml.safe_dump(changed) if name == "config.yaml" else json.dumps(changed))
                excluded, others = of_the_others(few, victim)
                assert excluded is None or others == expected, (name, path, node[path[-1]])
        (victim / name).write_text(text)


def paths(tree: dict, above: tuple = ()):
    for key, value in tree.items():
        yield (*above, key)
        yield from paths(value, (*above, key)) if isinstance(value, dict) else ()


@pytest.mark.parametrize("name", [*FILES, "metrics.jsonl", "starts.jsonl"])
def test_flipped_bytes_cut_files_and_noise_cost_that_run_alone(name, few, victim):
    draw = random.Random(11)
    (victim / "starts.jsonl").write_text(
        '{"from_step": 0, "changed": []}\n{"from_step": 9, "changed": ["zero: 1 -> 3"]}\n'
    )
    whole = (victim / name).read_bytes()
    for turn in range(12):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 3, 20))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        (victim / name).write_bytes([data, data[: draw.randrange(len(data))], draw.randbytes(300)][turn % 3])
        of_the_others(few, victim)


@pytest.mark.parametrize(
    "text, why",
    [
        (
            "a: &a0 [x]\n" + "".join(f"a{one}: &a{one} [{', '.join([f'*a{one - 1}'] * 9)}]\n" for one in range(1, 9)),
            "its aliases make",
        ),
        ("a: " + "[" * 60 + "]" * 60, "50 deep"),
        ("a: " + "[" * 50_000, "line 1"),
        ("seed: [1]\n", "seed is [1], expected a whole number"),
        ("seed: 99999999999999999999999999\n", "expected a whole number"),
        ("optimizer: {lr: [1]}\n", "optimizer.lr is [1], expected a number"),
        ("model: {hidden_size: wide}\n", "model.hidden_size is wide, expected a number"),
        ("match: {kv_bytes_per_token: 3 pints}\n", "match.kv_bytes_per_token is 3 pints"),
        ("a: !!python/object/apply:os.system [ls]\n", "the tag !!python/object/apply:os.system is not read here"),
        ("a: !!set {x}\n", "the tag !!set is not read here"),
        ("- 1\n", "a list, where keys with values are expected"),
        ("{}\n", "no keys with values"),
        ("data: 5\n", "data=5: expected keys with values"),
    ],
)
def test_a_config_that_is_no_plain_data_is_left_out(text, why, few, victim):
    (victim / "config.yaml").write_text(text)
    excluded, _ = of_the_others(few, victim)
    assert "cannot be read" in excluded and why in excluded


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"val_loss": 1e300}, "its loss is 1e+300, expected"),
        ({"params": 1e308}, "its params is 1e+308"),
        ({"tokens": 1e300}, "its tokens is 1e+300"),
        ({"kv_bytes_per_token": 1e300}, "its kv_bytes_per_token is 1e+300"),
        ({"tokens": 4e7}, "the steps of config.yaml make"),
        ({"params": 5}, "plan.json"),
        ({"attention": "gqa"}, "config.yaml: attention is mfa"),
        ({"data": {"tokenizer_sha256": ["t" * 64]}}, "expected a SHA-256"),
        ({"stretches": [1]}, "stretches is no list"),
    ],
)
def test_a_number_that_is_no_result_is_left_out_and_said(changes, why, few, victim):
    edit(victim, **changes)
    assert why in of_the_others(few, victim)[0]


def test_a_damaged_record_costs_itself_alone_and_is_told(few, victim):
    lines = (victim / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[4] = b'{"step": \xff\x00}\n'
    (victim / "metrics.jsonl").write_bytes(b"".join(lines)[:-5])  # and a last line that a kill tore
    study = gather([few])
    (run,) = [run for run in study.used if run.name == victim.name]
    assert len(run.curve) == len(lines) - 2
    assert f"records of metrics.jsonl that cannot be read are missing from the curves: {victim.name} 1" in study.notices


def test_a_run_without_a_fingerprint_is_taken_to_be_of_its_folders_corpus_or_left_out(few, victim):
    edit(victim, data=None)
    assert of_the_others(few, victim)[0] is None
    text = (victim / "config.yaml").read_text()
    (victim / "config.yaml").write_text(text.replace("vocab_size: 4096", "vocab_size: 512"))
    assert "no fingerprint of its data" in of_the_others(few, victim)[0]


def test_why_there_are_no_pairs_is_the_true_reason(few):
    runs = sorted(few.iterdir())
    (runs[1] / "summary.json").unlink()  # mfa, seed 2
    [said] = say_orders(gather([few]).runs)
    assert said == (
        "mha has runs of seeds 1, 2, mfa of 1: pairs are of the seeds that both have; left out are runs of mfa of "
        "seeds 2"
    )
    for run in runs[2:]:
        steps = yaml.safe_load((run / "config.yaml").read_text())["training"]["steps"]
        (run / "config.yaml").write_text(
            (run / "config.yaml").read_text().replace(f"steps: {steps}", f"steps: {2 * steps}")
        )
        edit(run, tokens=json.loads((run / "summary.json").read_text())["tokens"] * 2)
    notices = compare_study(gather([few]))["notices"]
    assert "no two variants share a size and a token budget (1 runs are left out): no paired verdicts" in notices
    assert not any("data orders" in notice for notice in notices)


@pytest.mark.parametrize(
    "data, line",
    [
        ("N,D,loss\n1e9,1e10,\xe9\n".encode("latin-1"), "points.csv:2: not text in UTF-8"),
        (b"N,D,loss\n1e9,1\x000,3\n", "points.csv:2: not text in UTF-8"),
        ("N,D,loss\n1,2,3\n".encode("utf-16"), "points.csv:1: not text in UTF-8"),
        (b"N,D,loss,LOSS\n1e9,1e10,3,4\n", "points.csv:1: two columns are named loss"),
        (b"N,D,loss" + b",x" * 5_000 + b"\n", "points.csv:1: 5,003 columns"),
        (b"N,D,loss" + b",x" * 1_000_000 + b"\n", "points.csv:1: a line of 65,536 characters and more"),
        (b'N,D,loss\n1e9,1e10,"3\n4"\n', r"points.csv:3: loss is '3\n4', expected a number"),
        (b"N;D;loss\n1e9;1e10;3,5\n", "points.csv:2: loss is '3,5', expected a number"),
        (b"\n\n", "points.csv: empty"),
        (b"\xef\xbb\xbf", "points.csv: empty"),
        (b"N,D,loss,group\n" + b"".join(b"1e9,1e10,3,%d\n" % n for n in range(120)), "120 variants"),
        (b"N,D,loss\n1e308,1e10,3\n", "its params is 1e+308, expected"),
    ],
)
def test_a_csv_that_is_no_table_is_one_line_with_file_and_line(data, line, tmp_path):
    (tmp_path / "points.csv").write_bytes(data)
    with pytest.raises(DataError) as refused:
        gather([tmp_path / "points.csv"])
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_a_csv_may_have_a_mark_semicolons_quotes_and_blank_lines(tmp_path):
    (tmp_path / "points.csv").write_bytes(
        '\ufeff"N";D;loss;group\r\n"1e6";2e7;3.5;mha\r\n\r\n2e6;2e7;3.25;"m;fa"\r\n'.encode()
    )
    assert [
        (run.params, run.loss, run.variant, run.source.rpartition(":")[2])
        for run in gather([tmp_path / "points.csv"]).used
    ] == [(1e6, 3.5, "mha", "2"), (2e6, 3.25, "m;fa", "4")]


def test_no_cell_of_a_table_is_a_formula_and_numbers_stay_numbers(tmp_path):
    names = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", " =1", "\uff1d1", "mha", "-3", "+4.5e-3"]
    conventions = dict.fromkeys(("estimator", "parameters", "flops", "loss"), "x")
    write_csv(tmp_path / "t.csv", [{"name": name, "loss": -1.5} for name in names], conventions)
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [*(f"'{name}" for name in names[:6]), *names[6:]]
    assert {row["loss"] for row in rows} == {"-1.5"}


def test_names_that_no_terminal_can_show_are_told_in_one_line_each(tmp_path):
    hostile = ["\x1b]0;owned\x07", "a\nb", "$x$ _y", "n" * 5_000, "\udcff", "<b>"]
    with (tmp_path / "points.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("N", "D", "loss", "group"),
                *((10**6, 10**8, 3.0 + at, name.replace("\udcff", "e")) for at, name in enumerate(hostile)),
            ]
        )
    table = told(compare_study(gather([tmp_path / "points.csv"])))
    assert all(sign.isprintable() or sign == "\n" for sign in table) and "\\x1b]0;owned\\x07" in table
    assert max(map(len, table.splitlines())) < 3 * MOST_SHOWN
    assert shown("\udcff") == "\\udcff" and shown("n" * 999) != shown("n" * 998)


def written(runs, out, **given) -> dict:
    return report_module.write_report(gather([runs]), out, configs.load(["tracking=none"]).tracking, **given)


def test_a_report_takes_the_place_of_nothing_but_a_report(few, tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "_pictures", lambda *_: ([], ""))  # they take the time
    file = tmp_path / "file"
    file.write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "nowhere")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "fit.json").write_text('{"my": "fit"}')
    for out, line in (
        (file, "is no folder"),
        (tmp_path / "loop", "is no folder"),
        (few, "holds files that are no report"),
        (mine, "holds files that are no report"),
        (next(few.iterdir()), "holds files that are no report"),
        (file / "below", "cannot be"),
        (tmp_path / ("n" * 300), "cannot be"),
    ):
        with pytest.raises(ConfigError, match=line):
            written(few, out)
    assert file.read_text() == "mine" and (mine / "fit.json").read_text() == '{"my": "fit"}'
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "report"
    monkeypatch.setattr(sys, "argv", ["mfa-train", "compare", str(few), "--out", "~/report", "tracking=none"])
    assert cli.main() == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ConfigError, match="runs.csv in it is what is to be compared"):
        written(out / "runs.csv", out)
    for budgets in ((1e300,), (1e-9,)):
        with pytest.raises(ConfigError, match="expected FLOPs from 1 to 1e"):
            written(few, out, budgets=budgets)
    (out / "index.html").unlink()
    (out / "index.html").mkdir()
    with pytest.raises(ConfigError, match="index.html in it is a folder"):
        written(few, out)
    assert all((out / name).read_bytes() == data for name, data in before.items() if name != "index.html")
