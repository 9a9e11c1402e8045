"""Runs of the real commands, each a process (or two) of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALL

SHORT = [
    *(override for override in SMALL if "vocab_size" not in override), "training.steps=20", "schedule.warmup_steps=5",
    "training.sequence_length=64", "training.log_every=1", "training.eval_every=10", "training.eval_sequences=5",
    "sample.max_new_tokens=8", "precision=fp32", "tracking.wandb=disabled",
]
"""A run of a few seconds. Five evaluation sequences: no number of ranks divides them."""


@pytest.fixture
def train(prepared_data, tmp_path):
    """`train(*overrides, processes=1)` runs train.py on a small model and gives the finished process."""
    def run(*overrides: str, processes: int | None = None, python: tuple[str, ...] = ("train.py",)):
        start = [sys.executable] if processes is None else [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        # One thread a process: the models are too small for more, and two processes don't wait for each other's.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*start, *python, *SHORT, f"data_dir={prepared_data}", f"runs_dir={tmp_path}", *overrides], cwd=ROOT,
            env=environment, capture_output=True, text=True, timeout=300)

    return run


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
