"""What launching costs: `mfa-train launch cluster=local` over plain train.py, and a sweep over its members run by hand.

    python benchmarks/launching.py [--repeats 3] [OVERRIDES…]

Each is timed from the command to its end, alternately; the least of the repeats counts, since others' load only adds.
The last line is JSON.
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
VARIANTS = ("mha", "gqa", "mqa", "mla", "mfa", "mfa_kr", "tpa")
TRAIN, LAUNCH = ("train.py",), ("-m", "mfa_train.cli", "launch")


def seconds(*command: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    arguments, overrides = parser.parse_known_args()
    common = ["model=nano", "training.steps=20", "schedule.warmup_steps=5", "tracking=none", *overrides]
    seconds("-m", "mfa_train.cli", "prepare", *[word for word in common if word.startswith("data")])
    plain, launched, by_hand, swept = [], [], [], []
    with tempfile.TemporaryDirectory() as runs:
        for repeat in range(arguments.repeats):
            here = [*common, f"runs_dir={runs}/{repeat}"]
            plain.append(seconds(*TRAIN, *here, "name=plain"))
            launched.append(seconds(*LAUNCH, *here, "name=launched"))
        for repeat in range(max(1, arguments.repeats - 1)):
            by_hand.append(
                sum(
                    seconds(*TRAIN, *common, f"runs_dir={runs}/hand{repeat}", f"attention={variant}")
                    for variant in VARIANTS
                )
            )
            swept.append(
                seconds(*TRAIN, "-m", *common, f"runs_dir={runs}/swept{repeat}", f"attention={','.join(VARIANTS)}")
            )
    print(
        json.dumps(
            {
                "train_seconds": min(plain),
                "launch_seconds": min(launched),
                "launch_overhead_seconds": min(launched) - min(plain),
                "members_by_hand_seconds": min(by_hand),
                "sweep_seconds": min(swept),
                "sweep_ratio": min(swept) / min(by_hand),
            }
        )
    )


if __name__ == "__main__":
    main()
