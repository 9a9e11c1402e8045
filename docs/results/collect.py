"""Keeps the small files of a ladder's finished runs, or puts them back, so that a study can go on where runs/ is gone.

    python docs/results/collect.py runs/nano docs/results/nano/runs          # keep
    python docs/results/collect.py docs/results/nano/runs runs/nano          # put back: the sweep finds them finished

Only whole cells are kept: a run together with all its branches, since these need its checkpoints, which are not kept.
"""

import shutil
import sys
from pathlib import Path

import yaml

FILES = ("config.yaml", "plan.json", "summary.json", "metrics.jsonl")


def main() -> None:
    there, here = map(Path, sys.argv[1:3])
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
        if len(cell) != expected.get(origin) or not all((run / "summary.json").is_file() and '"finished"' in (
                run / "summary.json").read_text() for run in cell):
            continue
        for run in cell:
            (here / run.name).mkdir(parents=True, exist_ok=True)
            for name in FILES:
                shutil.copyfile(run / name, here / run.name / name)
            kept += 1
    print(f"{kept} of {len(runs)} runs, those of whole cells, are in {here}")


if __name__ == "__main__":
    main()
