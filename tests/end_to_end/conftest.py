"""Runs of the real commands, each a process (or two) of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train as train_py
from mfa_train.doors import report
from tests.conftest import ROOT, SMALL

SHORT = [
    *(override for override in SMALL if "vocab_size" not in override),
    "training.steps=20",
    "schedule.warmup_steps=5",
    "training.sequence_length=64",
    "training.log_every=1",
    "training.eval_every=10",
    "training.eval_sequences=5",
    "sample.max_new_tokens=8",
    "precision=fp32",
    "tracking.wandb=disabled",
]
"""A run of a few seconds. Five evaluation sequences: no number of ranks divides them."""
STEPS = 90
# At the default learning rate rounding alone parts the curves of 1 and 2 undisturbed processes by 1.03e-4 in 150 steps.
COMMON = [
    *SHORT,
    f"training.steps={STEPS}",
    "training.log_every=3",
    "checkpoint.every_steps=10",
    "zero=2",
    "optimizer.lr=1e-3",
]
"""A run that is long enough to be stopped."""


@pytest.fixture
def train(prepared_data, tmp_path):
    """`train(*overrides, processes=1)` runs train.py on a small model and gives the finished process."""

    def run(*overrides: str, processes: int | None = None, python: tuple[str, ...] = ("train.py",)):
        start = (
            [sys.executable]
            if processes is None
            else [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        )
        # One thread a process: the models are too small for more, and two processes don't wait for each other's.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*start, *python, *SHORT, f"data_dir={prepared_data}", f"runs_dir={tmp_path}", *overrides],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def refused(prepared_data, tmp_path, monkeypatch, capsys):
    """`refused(*overrides)`: the exit status and the lines on standard error of train.py in this process, for what ends
    before a run begins."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def run(*overrides: str) -> tuple[int, list[str]]:
        folders = (f"data_dir={prepared_data}", f"runs_dir={tmp_path}")
        monkeypatch.setattr(sys, "argv", ["train.py", *SHORT, *folders, *overrides])
        return report(train_py.main), capsys.readouterr().err.strip().splitlines()

    return run


@pytest.fixture
def begin(prepared_data, tmp_path):
    """`begin(*overrides, processes=1)` starts train.py and gives the process, once it has logged a step."""
    started = []

    def start(
        *overrides: str, processes: int = 1, runs_dir: Path = tmp_path, name: str = "run", **options
    ) -> subprocess.Popen:
        launcher = (
            ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
        )
        process = subprocess.Popen(
            [
                sys.executable,
                *launcher,
                "train.py",
                *COMMON,
                f"data_dir={prepared_data}",
                f"runs_dir={runs_dir}",
                f"name={name}",
                *overrides,
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        file, deadline = runs_dir / name / "metrics.jsonl", time.monotonic() + 120
        fewest = logged = file.read_bytes().count(b"\n") if file.exists() else 0
        while logged <= fewest:  # a run that goes on first cuts off what is behind its checkpoint
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
            logged = file.read_bytes().count(b"\n") if file.exists() else 0
            fewest = min(fewest, logged)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
