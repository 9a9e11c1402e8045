"""Scripts of this folder on several ranks."""

import os
import subprocess
import sys

from tests.conftest import ROOT


def on_ranks(processes: int, script: str, *words: str) -> None:
    """`script` of this folder on so many; fails where one of them does."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    subprocess.run(
        [*launcher, f"tests/parallel/{script}", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=600,
    )
