"""`status` over folders as they are found: a thousand of them, and odd ones."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.launch.status import statuses, table

CONFIG = configs.to_yaml(configs.load(["training.steps=100", "training.batch_size=8"]))
RECORDS = "".join(
    json.dumps(
        {"step": step, "tokens": 2048 * step, "train/loss": 4.5, "tokens_per_second": 512.0, "seconds": 4.0 * step}
    )
    + "\n"
    for step in range(1, 51)
)


def run_in(runs_dir, name: str = "run", **files):
    """A run with those files instead; None leaves one out, and `_` in a name stands for a dot."""
    run = runs_dir / name
    run.mkdir()
    for file, content in ({"config_yaml": CONFIG, "metrics_jsonl": RECORDS} | files).items():
        if content is not None:
            (run / file.replace("_", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
    return run


def test_a_hundred_runs_of_a_thousand_records_are_told_in_a_moment(tmp_path):
    line = json.loads(RECORDS.splitlines()[0])
    records = "".join(json.dumps(line | {"step": step, "tokens": 2048 * step}) + "\n" for step in range(1, 1001))
    for number in range(100):
        run_in(tmp_path, f"run-{number}", metrics_jsonl=records)
    for number in range(1000):
        (tmp_path / f"file-{number}").write_text("")
    start = time.process_time()
    found = statuses(tmp_path)
    assert len(found) == 100 and {one.step for one in found} == {1000}
    assert time.process_time() - start < 1  # 14 s where a config is composed for each


def test_status_does_not_wait_for_torch():
    code = "import sys, mfa_train.launch.status\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


ODD_CONFIGS = [
    b"",
    b"\0" * 100,
    b"- 1\n",
    b"training:\n  steps: " + b"[" * 10**5,
    b"[" * 10**5,
    b"training: 3\n",
    b"x: *nobody\n",
    CONFIG.replace("steps: 100", "steps: many").encode(),
    CONFIG.replace("steps: 100", "steps: -1").encode(),
    CONFIG.replace("steps: 100", "steps: " + "9" * 5000).encode(),
    CONFIG.replace("steps: 100", "steps: !!python/object/apply:os.abort []").encode(),
]


@pytest.mark.parametrize("content", ODD_CONFIGS, ids=range(len(ODD_CONFIGS)))
def test_a_config_that_is_no_runs_costs_its_folder_alone_and_is_told(content, tmp_path):
    run_in(tmp_path, config_yaml=content)
    run_in(tmp_path, "sound")
    odd, sound = statuses(tmp_path)
    assert (odd.state, sound.state, sound.step) == ("unreadable", "running", 50)
    assert "\nrun: config.yaml is no run's" in table([odd, sound])


def test_steps_counted_in_tokens_are_told(tmp_path):
    run_in(tmp_path, config_yaml=CONFIG.replace("steps: 100", "steps: null").replace("tokens: null", "tokens: 204801"))
    assert statuses(tmp_path)[0].steps == 101


ODD_RECORDS = [
    "",
    "\0" * 5000,
    "[1]\n3\n",
    '{"step": "x"}\n',
    '{"step": 1}\n' + "\0" * 9000,
    '{"step": 9, "train/loss": NaN, "tokens_per_second": Infinity, "seconds": "x"}\n' * 3,
    '{"step": 9, "train/loss": "4", "tokens_per_second": [], "seconds": null}\n',
    '{"step": 9, "train/loss": 1e308, "tokens_per_second": 1e-320, "seconds": -1e308}\n',
    "x" * 10**6,
]


@pytest.mark.parametrize("records", ODD_RECORDS, ids=range(len(ODD_RECORDS)))
def test_records_that_are_odd_are_passed_over(records, tmp_path):
    run_in(tmp_path, metrics_jsonl=records)
    found = statuses(tmp_path)
    assert found[0].state == "running" and max(map(len, table(found).splitlines())) < 90


@pytest.mark.parametrize("pid", ["-1", "0", str(10**30), '"../../1"', "null", "[]", "1e3", "true"])
def test_a_forged_lock_is_no_process(pid, tmp_path):
    run_in(tmp_path, run_lock=f'{{"host": "{socket.gethostname()}", "pid": {pid}}}')
    assert statuses(tmp_path)[0].state == "silent"


@pytest.mark.parametrize("summary", ["", "[]", "{}", '{"status": 3}', '{"status": "\\u001b[2J"}', '{"status": ["a"]}'])
def test_a_damaged_summary_is_told_and_is_no_state(summary, tmp_path):
    run_in(tmp_path, summary_json=summary)
    found = statuses(tmp_path)
    assert (
        found[0].state == "unreadable" and "run: summary.json is damaged" in table(found) and "\x1b" not in table(found)
    )


def test_a_clock_that_is_far_ahead_makes_no_run_a_running_one(tmp_path):
    os.utime(run_in(tmp_path) / "metrics.jsonl", (4e9, 4e9))
    assert statuses(tmp_path)[0].state == "silent"


def test_a_finished_run_that_was_copied_in_any_order_is_finished(tmp_path):
    os.utime(run_in(tmp_path, summary_json='{"status": "finished"}') / "summary.json", (1e9, 1e9))
    assert statuses(tmp_path)[0].state == "finished"


def test_what_is_no_run_is_passed_over(tmp_path):
    run = run_in(tmp_path)
    os.symlink("loop", tmp_path / "loop")
    os.symlink("nowhere", tmp_path / "dangling")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder" / "config.yaml").mkdir(parents=True)
    odd = run_in(tmp_path, "odd", metrics_jsonl=None)
    for name in ("metrics.jsonl", "run.lock", "starts.jsonl"):
        os.mkfifo(odd / name)
    assert [(one.name, one.step) for one in statuses(tmp_path)] == [("odd", 0), ("run", 50)]
    for what, told in (
        (run / "config.yaml", "is a file"),
        (tmp_path / "loop", "cannot be read"),
        (tmp_path / "none", "no such folder"),
    ):
        with pytest.raises(ConfigError, match=told):
            statuses(what)


def test_names_reach_the_terminal_as_what_it_can_show_in_columns_that_stand(tmp_path):
    names = ["plain", "\x1b[31mred", "two\nlines", "\u202eback", "宽字符", "x" * 200]
    for name in names:
        run_in(tmp_path, name)
    run_in(tmp_path, os.fsdecode(b"\xff\xfe"))
    told = table(statuses(tmp_path))
    assert told.isprintable() or set(filter(lambda sign: not sign.isprintable(), told)) == {"\n"}
    shown = {line.split()[0]: line for line in told.splitlines()}
    assert {"\\x1b[31mred", "two\\nlines", "\\u202eback", "\\udcff\\udcfe"} <= set(shown)
    assert shown["宽字符"].index("running") == shown["plain"].index("running") - 3  # each is two columns wide
