"""What surviving costs: how long the steps stand still for a save, written in the background or not, and how long a run
takes from the command to its first step, fresh or resumed. The last line is JSON.

    python benchmarks/saving.py model=125m
    python benchmarks/saving.py model=tiny --rounds 5

The two kinds of save take turns, as do the two kinds of start. A checkpoint's files are dropped from the page cache
before it is resumed from.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kills import ROOT, last_step, newest

QUICK = [
    "training.batch_size=1",
    "training.sequence_length=64",
    "training.eval_sequences=1",
    "training.log_every=1",
    "training.eval_every=1000000",
    "sample.max_new_tokens=1",
    "tracking.wandb=disabled",
    "schedule.warmup_steps=1",
]
EVERY = 8
"""Steps between two saves: enough that one is written before the next begins."""


def start(folder: Path, name: str, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "train.py", *QUICK, f"runs_dir={folder}", f"name={name}", *overrides]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)


def blocking(folder: Path, name: str, *overrides: str) -> list[float]:
    """Seconds that each of three saves held up the steps, the first of which takes the memory."""
    process = start(folder, name, f"training.steps={3 * EVERY + 1}", f"checkpoint.every_steps={EVERY}", *overrides)
    if process.wait():
        raise SystemExit(f"the run ended with {process.returncode}")
    records = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
    seconds = [record["checkpoint/blocking_seconds"] for record in records if "checkpoint/blocking_seconds" in record]
    shutil.rmtree(folder / name)
    return seconds


def until(process: subprocess.Popen, reached) -> None:
    while not reached():
        if process.poll() is not None:
            raise SystemExit(f"the run ended with {process.returncode}")
        time.sleep(0.01)


def first_step(folder: Path, name: str, *overrides: str) -> float:
    """Seconds from the command to the first step; the run is killed there, or where it has a checkpoint."""
    run, begun = folder / name, time.perf_counter()
    before = newest(run)
    for checkpoint in (run / "checkpoints").glob("step-*/*"):
        with checkpoint.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    process = start(
        folder, name, "training.steps=1000", "checkpoint.every_steps=2", "checkpoint.background=false", *overrides
    )
    if before:
        until(process, lambda: last_step(run) == before)  # records behind the checkpoint are cut off first
    until(process, lambda: last_step(run) > before)
    seconds = time.perf_counter() - begun
    until(process, lambda: newest(run) > before)
    process.kill()
    process.wait()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", default=[])
    arguments = parser.parse_args()
    waits: dict[bool, list[float]] = {True: [], False: []}
    firsts: dict[bool, list[float]] = {True: [], False: []}
    starts: dict[str, list[float]] = {"fresh": [], "resumed": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(arguments.rounds):
            for background in (False, True):
                first, *others = blocking(folder, "saves", f"checkpoint.background={background}", *arguments.overrides)
                firsts[background].append(first)
                waits[background] += others
            starts["fresh"].append(first_step(folder, "starts", *arguments.overrides))
            starts["resumed"].append(first_step(folder, "starts", *arguments.overrides))
            checkpoint = next((folder / "starts" / "checkpoints").glob("step-*"))
            size = sum(path.stat().st_size for path in checkpoint.iterdir())
            shutil.rmtree(folder / "starts")
    beside, waited = statistics.median(waits[True]), statistics.median(waits[False])
    fresh, resumed = (statistics.median(starts[kind]) for kind in ("fresh", "resumed"))
    print(
        json.dumps(
            {
                "checkpoint_mb": round(size / 1e6),
                "background_s": beside,
                "waited_s": waited,
                "share": beside / waited,
                "first_background_s": statistics.median(firsts[True]),
                "fresh_s": fresh,
                "resumed_s": resumed,
                "resumed_over_fresh": resumed / fresh,
            }
        )
    )


if __name__ == "__main__":
    main()
