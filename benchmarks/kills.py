"""Kills a run with SIGKILL again and again, starts the same command each time, and holds the curve that comes out
against an undisturbed run's: every step once, every number the same bits. The last line is JSON.

    python benchmarks/kills.py --kills 20 --processes 2

A kill strikes one rank or all of them, at a random moment of the steps or while a checkpoint is being written.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMINGS = {"seconds", "tokens_per_second", "mfu", "checkpoint/blocking_seconds"}
SMALL = [
    "model.hidden_size=64",
    "model.num_hidden_layers=2",
    "model.intermediate_size=96",
    "model.num_attention_heads=4",
    "model.num_key_value_heads=2",
    "model.head_dim=16",
    "training.sequence_length=64",
    "training.log_every=3",
    "training.eval_every=50",
    "training.eval_sequences=5",
    "sample.max_new_tokens=8",
    "tracking.wandb=disabled",
]


def command(processes: int, name: str, overrides: list[str]) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*(start if processes > 1 else [sys.executable]), "train.py", *SMALL, f"name={name}", *overrides]


def start(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def ranks_of(process: subprocess.Popen, processes: int) -> list[int]:
    """The process ids that train."""
    if processes == 1:
        return [process.pid]
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def curve(run: Path) -> list[dict]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [
        {
            key: value
            for key, value in record.items()
            if key not in TIMINGS and not key.startswith(("time/", "memory/", "ranks/"))
        }
        for record in records
    ]


def last_step(run: Path) -> int:
    try:
        return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, ValueError, IndexError):
        return 0


def newest(run: Path) -> int:
    """Step of the newest visible checkpoint."""
    names = [path.name for path in (run / "checkpoints").glob("step-*")]
    return max((int(name.removeprefix("step-")) for name in names if "." not in name), default=0)


def kill_once(process: subprocess.Popen, run: Path, processes: int, chance: random.Random) -> dict | None:
    """Waits for steps, kills, and tells what was done; None where the run ended first."""
    before, deadline = last_step(run), time.monotonic() + 120
    while last_step(run) <= before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    during_save = chance.random() < 0.5
    if during_save:
        while not list((run / "checkpoints").glob("step-*.partial-*")) and process.poll() is None:
            time.sleep(0.0005)
    else:
        time.sleep(chance.uniform(0.0, 0.8))
    if process.poll() is not None:
        return None
    ranks = ranks_of(process, processes)
    struck = ranks if chance.random() < 0.5 else [chance.choice(ranks)]
    for pid in struck:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=120)
    return {"ranks": len(struck), "during_save": during_save, "logged": last_step(run), "checkpoint": newest(run)}


def study(kills: int, processes: int, folder: Path, overrides: list[str], seed: int) -> dict:
    """What came out; `equal` says whether the two curves are the same bits and each step stands once."""
    chance, common = random.Random(seed), [f"runs_dir={folder}", *overrides]
    undisturbed = start(command(processes, "undisturbed", common))
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output
    arguments = command(processes, "killed", common)
    done: list[dict] = []
    while True:
        process = start(arguments)
        kill = kill_once(process, folder / "killed", processes, chance) if len(done) < kills else None
        if kill is None:
            break
        done.append(kill)
        print(f"kill {len(done)}: {kill}", flush=True)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    ours, theirs = curve(folder / "killed"), curve(folder / "undisturbed")
    steps = [record["step"] for record in ours]
    lost = [kill["logged"] - kill["checkpoint"] for kill in done]
    return {
        "kills": len(done),
        "of_all_ranks": sum(kill["ranks"] == processes for kill in done),
        "during_save": sum(kill["during_save"] for kill in done),
        "records": len(ours),
        "each_step_once": steps == sorted(set(steps)),
        "equal": ours == theirs,
        "most_steps_lost": max(lost, default=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", default=[])
    arguments = parser.parse_args()
    overrides = ["training.steps=900", "checkpoint.every_steps=10", "precision=fp32", "zero=2", *arguments.overrides]
    with tempfile.TemporaryDirectory() as folder:
        result = study(arguments.kills, arguments.processes, Path(folder), overrides, arguments.seed)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
