"""What DeepSpeed's ways of building a model must not change."""

import os
import subprocess
import sys

from tests.conftest import ROOT, SMALL


def test_positions_are_float32_in_a_bf16_model_that_zero_3_builds():
    overrides = [*SMALL, "zero=3", "precision=bf16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "tests/training/positions.py", *overrides], cwd=ROOT, env=environment, check=True)


def test_a_step_calls_no_more_than_it_must_and_every_group_waits_longer_than_the_watchdog():
    subprocess.run(
        [
            sys.executable,
            *["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
            "tests/training/engine_calls.py",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=300,
    )
