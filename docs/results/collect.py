"""Keeps the small files of a ladder's finished runs, or puts them back, so that a study can go on where runs/ is gone.

    python docs/results/collect.py runs/nano docs/results/nano/runs          # keep
    python docs/results/collect.py docs/results/nano/runs runs/nano          # put back: the sweep finds them finished

Only whole cells are kept: a run together with all its branches, since these need its checkpoints, which are not kept.
"""

import argparse
import json
import shutil
from pathlib import Path

import yaml

FILES = ("config.yaml", "plan.json", "summary.json", "metrics.jsonl")


def main() -> None:
    typed = argparse.ArgumentParser(
        description="Copies the small files of a ladder's whole cells from one folder into another."
    )
    typed.add_argument("there", type=Path)
    typed.add_argument("here", type=Path)
    there, here = (given := typed.parse_args()).there, given.here
    if not there.is_dir():
        raise SystemExit(f"{there}: no such folder; type one of run folders, as runs/nano")
    branches: dict[str, list[Path]] = {}
    runs = [folder for folder in sorted(there.iterdir()) if (folder / "config.yaml").is_file()]
    expected = {}
    for run in runs:
        config = yaml.safe_load((run / "config.yaml").read_text())
        resume = config["resume"]
        origin = Path(resume).parts[-3] if "/checkpoints/" in resume else run.name
        branches.setdefault(origin, []).append(run)
        if origin == run.name:
            expected[origin] = 1 + len(config["checkpoint"]["at_steps"])
    kept = 0
    for origin, cell in branches.items():
        if len(cell) != expected.get(origin) or not all(map(_finished, cell)):
            continue
        for run in cell:
            (here / run.name).mkdir(parents=True, exist_ok=True)
            for name in FILES:
                shutil.copyfile(run / name, here / run.name / name)
            kept += 1
    print(f"{kept} of {len(runs)} runs, those of whole cells, are in {here}")


def _finished(run: Path) -> bool:
    summary = run / "summary.json"
    return summary.is_file() and json.loads(summary.read_text()).get("status") == "finished"


if __name__ == "__main__":
    main()
