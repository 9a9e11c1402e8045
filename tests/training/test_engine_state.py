"""The pieces hold all that an engine has learnt."""

import os
import subprocess
import sys

from tests.conftest import ROOT


def test_pieces_put_into_a_fresh_engine_go_on_with_the_same_bits_at_every_stage_and_precision():
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "tests/training/engine_roundtrip.py",
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=300,
    )
