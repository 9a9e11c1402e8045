"""`mfa-train launch` as it is typed, on small models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.end_to_end.conftest import SHORT

STRANGE = 'it\'s $(touch pwned) `touch pwned`; "two"  words | & \\ %n %j\n$HOME'
"""What a shell, a scheduler or another launcher would make something of."""


@pytest.fixture
def launch(prepared_data, tmp_path):
    """`launch(*overrides, environment=None)` types it, on one thread, and gives the finished process; `.start` one that
    isn't finished."""

    def command(*overrides: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "mfa_train.cli",
            "launch",
            *SHORT,
            "optimizer.lr=1e-3",
            "checkpoint.every_steps=5",
            f"data_dir={prepared_data}",
            f"runs_dir={tmp_path}",
            *overrides,
        ]

    def options(environment: dict | None) -> dict:
        typed = {"PYTHONPATH": str(ROOT)} | dict(environment or os.environ) | {"OMP_NUM_THREADS": "1"}
        return {"cwd": ROOT, "text": True, "env": typed}

    def run(*overrides: str, environment: dict | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(command(*overrides), capture_output=True, timeout=400, **options(environment))

    def start(*overrides: str, environment: dict | None = None) -> subprocess.Popen:
        process = subprocess.Popen(
            command(*overrides), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options(environment)
        )
        started.append(process)
        return process

    started: list[subprocess.Popen] = []
    run.start = start
    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def curve(run: Path) -> list[tuple]:
    """What of metrics.jsonl does not depend on the clock."""
    return [
        (record["step"], record["tokens"], record["train/loss"], record["lr"], record.get("val/loss"))
        for record in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    ]


def quoted(value: str) -> str:
    """As an override's value that Hydra reads back as it was."""
    return "'" + value.replace("'", "\\'") + "'"
