"""The pieces hold all that an engine has learnt."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("precisions", ["one a stage", pytest.param("all", marks=pytest.mark.long)])
def test_pieces_put_into_a_fresh_engine_go_on_with_the_same_bits_at_every_stage_and_precision(precisions):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "tests/training/engine_roundtrip.py",
            *(["all"] if precisions == "all" else []),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=300,
    )
