"""How long a start stands until it can train, here and in another revision, in turns: building the engine on several
ranks with its peak of memory, and `train.py` to its first step, fresh and from a checkpoint that is on the disk alone.

    python benchmarks/building.py --before f2d5f49 model=125m zero=3
    python benchmarks/building.py --before f2d5f49 --no-starts model=7b model.num_hidden_layers=2 zero=3 precision=bf16

The last line is JSON: medians of each, and of the rounds' ratios, here over there.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kills import ROOT, last_step, newest
from saving import QUICK

BUILD = """
import json, resource, sys, time
import torch
from mfa_train import config as configs
from mfa_train.budget.devices import planned_device, resolve_precision
from mfa_train.training.processes.ranks import join
from mfa_train.training.steps.engine import build_engine, import_deepspeed
config, ranks = configs.load(sys.argv[2:]), join()
dtype = resolve_precision(config.precision, planned_device("auto", 1, 0))
import_deepspeed()
ranks.meet()
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
build_engine(config, ranks, dtype)
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told = [None] * ranks.world_size
torch.distributed.all_gather_object(told, (seconds, peak / 2**20, before / 2**20))
if ranks.is_rank_zero:
    seconds, peaks, before = zip(*told)
    with open(sys.argv[1], "w") as file:
        json.dump({"build_s": max(seconds), "peak_gib": max(peaks), "imports_gib": max(before)}, file)
"""


@contextlib.contextmanager
def revision(name: str | None) -> Iterator[Path]:
    """A folder with the sources of that revision, or these."""
    if name is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", tree, name], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree), "DS_ACCELERATOR": "cpu"}


def built(tree: Path, ranks: int, overrides: list[str]) -> dict[str, float]:
    """Seconds of the slowest rank, and GiB of the fullest."""
    with tempfile.TemporaryDirectory() as folder:
        script, found = Path(folder) / "build.py", Path(folder) / "found.json"
        script.write_text(BUILD)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
        words = [*QUICK, f"training.batch_size={ranks}", f"data_dir={ROOT / 'data'}", *overrides]
        command = [*torchrun, str(script), str(found), *[word for word in words if word != "training.batch_size=1"]]
        subprocess.run(command, cwd=tree, env=environment(tree), check=True, stdout=sys.stderr)
        return json.loads(found.read_text())


def first_step(tree: Path, runs: Path, overrides: list[str]) -> float:
    """Seconds from the command to the first step's record; the run is killed once it has a checkpoint."""
    run, begin = runs / "run", time.perf_counter()
    before = newest(run) if run.exists() else 0
    for file in (run / "checkpoints").glob("step-*/*"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    words = [*QUICK, "training.steps=1000", "checkpoint.every_steps=2", "checkpoint.background=false", *overrides]
    command = [sys.executable, "train.py", *words, f"runs_dir={runs}", "name=run", f"data_dir={ROOT / 'data'}"]
    process = subprocess.Popen(command, cwd=tree, env=environment(tree), stdout=subprocess.DEVNULL)
    reached = (
        (lambda: last_step(run) == before, lambda: last_step(run) > before) if before else (lambda: last_step(run),)
    )
    for condition in reached:  # records behind the checkpoint are cut off first
        while not condition():
            if process.poll() is not None:
                raise SystemExit(f"the run ended with {process.returncode}")
            time.sleep(0.01)
    seconds = time.perf_counter() - begin
    while newest(run) <= before and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="a revision; without one these sources alone are measured")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-starts", action="store_true", help="leave out train.py's starts")
    arguments, overrides = parser.parse_known_args()
    found: dict[str, list[dict[str, float]]] = {"here": [], "before": []}
    with contextlib.ExitStack() as trees:
        sources = {"here": ROOT}
        if arguments.before:
            sources["before"] = trees.enter_context(revision(arguments.before))
        for number in range(arguments.rounds):
            for which in sorted(sources, reverse=bool(number % 2)):
                told = built(sources[which], arguments.ranks, overrides)
                if not arguments.no_starts:
                    with tempfile.TemporaryDirectory() as runs:
                        told["fresh_s"] = first_step(sources[which], Path(runs), overrides)
                        told["resumed_s"] = first_step(sources[which], Path(runs), overrides)
                        shutil.rmtree(Path(runs) / "run")
                print(which, json.dumps({key: round(value, 3) for key, value in told.items()}), flush=True)
                found[which].append(told)
    keys = found["here"][0]
    result = {
        which: {key: round(statistics.median(told[key] for told in rounds), 3) for key in keys}
        for which, rounds in found.items()
        if rounds
    }
    if arguments.before:
        pairs = list(zip(found["here"], found["before"]))
        result["here_over_before"] = {
            key: round(statistics.median(here[key] / there[key] for here, there in pairs), 3) for key in keys
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
