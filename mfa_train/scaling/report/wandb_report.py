"""The comparison in W&B: one run of the sweep's group, with the tables, the pictures and the page."""

import os
from pathlib import Path

from mfa_train.config import TrackingConfig
from mfa_train.scaling.study.runs import Run
from mfa_train.tracking.wandb_run import WandbRun, forget_run


def group_of(runs: list[Run]) -> str | None:
    """The W&B group that all the runs belong to; None where they differ or have none."""
    groups = {run.config.get("tracking.group") for run in runs if run.config}
    return groups.pop() if len(groups) == 1 else None


def log_report(
    config: TrackingConfig, folder: Path, result: dict, tables: dict[str, list[dict]], pictures: list[Path]
) -> None:
    """Logs what the report in `folder` shows. Whatever fails in W&B is told and changes nothing here."""
    told = {
        "answer": " ".join(result["answer"]["sentences"]),
        "reference": result["reference"],
        "conventions": result["conventions"],
        "made_by": result["made_by"],
        "runs": [run["name"] for run in result["runs"]],
    }
    if scored := result.get("evaluations_told"):
        told["scores"] = " ".join(sentence for cell in scored for sentence in cell["sentences"])
    forget_run(os.environ)
    run = WandbRun(config, f"compare-{folder.resolve().name}", folder, told)
    if run.run is None:
        return
    import wandb

    record: dict = {"step": 0, "notices": len(result["notices"])}
    for name, rows in tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [
            [
                None
                if row.get(key) is None
                else str(row[key])
                if not isinstance(row[key], (int, float))
                else float(row[key])
                for key in columns
            ]
            for row in rows
        ]
        mixed = {
            index for index in range(len(columns)) if len({type(line[index]) for line in cells} - {type(None)}) > 1
        }
        cells = [
            [str(value) if index in mixed and value is not None else value for index, value in enumerate(line)]
            for line in cells
        ]
        record[f"tables/{name}"] = wandb.Table(columns=columns, data=cells)
    record |= {f"plots/{picture.stem}": wandb.Image(str(picture)) for picture in pictures}
    record["report"] = wandb.Html((folder / "index.html").read_text(encoding="utf-8"), inject=False)
    run.log(record)
    run.finish({"status": "finished"})
