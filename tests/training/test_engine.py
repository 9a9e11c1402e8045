"""What DeepSpeed's ways of building a model must not change."""

import os
import subprocess
import sys

from tests.conftest import ROOT, SMALL

BUILD = """
import sys, torch
from mfa_train import config as configs
from mfa_train.attention.rope import inverse_frequencies
from mfa_train.training.steps.engine import build_engine
from mfa_train.training.processes.ranks import join
config = configs.load(sys.argv[1:])
engine = build_engine(config, join(), torch.bfloat16)
assert all(parameter.dtype == torch.bfloat16 for parameter in engine.module.parameters())
found, expected = engine.module.model.rope.inverse_frequencies, inverse_frequencies(32, 10000.0, None)
assert found.dtype == torch.float32 and torch.equal(found, expected), found
"""


def test_positions_are_float32_in_a_bf16_model_that_zero_3_builds():
    subprocess.run([sys.executable, "-c", BUILD, *SMALL, "zero=3", "precision=bf16"], cwd=ROOT, check=True)


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
