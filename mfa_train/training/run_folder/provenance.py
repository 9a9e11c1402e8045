"""What made a run: enough to find its config, its data and its code again, and to tell when two runs' differ."""

import hashlib
import subprocess
from pathlib import Path

from mfa_train.tracking.starts import versions

ROOT = Path(__file__).resolve().parents[3]


def provenance(run: Path, data: dict[str, str]) -> dict:
    """What summary.json holds of the origin of the run in folder `run`; `data` are `RunData.fingerprints`."""
    return {
        "config_sha256": hashlib.sha256((run / "config.yaml").read_bytes()).hexdigest(),
        "data": data,
        "code_commit": code_commit(),
        "versions": versions(),
    }


def code_commit() -> str | None:
    """The commit of this checkout, `-dirty` where files differ from it; None where it is no git repository."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
