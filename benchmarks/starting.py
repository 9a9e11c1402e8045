"""What a start takes: from `python train.py` to the first step's record, in seconds and in seconds of a CPU.

    python benchmarks/starting.py [--repeats 3] [OVERRIDES…]

The corpus is prepared before; W&B logs offline. The least of the repeats counts, since others' load only adds. The last
line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def started(runs: str, overrides: list[str]) -> tuple[float, float]:
    """Seconds, and of a CPU, until metrics.jsonl has its first line."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "train.py", *overrides, f"runs_dir={runs}", "name=run"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    file = Path(runs) / "run" / "metrics.jsonl"
    while not (file.exists() and file.stat().st_size):
        if process.poll() is not None:
            sys.exit(process.communicate()[1].decode())
        time.sleep(0.005)
    seconds = time.perf_counter() - begin
    user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    process.kill()
    process.wait()
    return seconds, (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments, typed = parser.parse_known_args()
    overrides = ["attention=mfa", "model=nano", "tracking.wandb=offline", *typed]
    prepare = [sys.executable, "-m", "mfa_train.cli", "prepare", *[word for word in typed if word.startswith("data")]]
    subprocess.run(prepare, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, stdout=sys.stderr)
    taken = []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as runs:
            taken.append(started(runs, overrides))
    seconds, of_cpu = zip(*taken)
    print(json.dumps({"seconds": round(min(seconds), 2), "cpu_seconds": round(min(of_cpu), 2)}))


if __name__ == "__main__":
    main()
