"""The trainer's door: Hydra composes configs/ and the command line, `mfa_train.training.run` does the rest.

With -m each member of the sweep runs in a process of its own, under the name of the model and of the keys swept.
"""

import os
import subprocess
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mfa_train.config import from_hydra
from mfa_train.doors import report

failed_members: list[str] = []


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def main(tree: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        run_member(list(HydraConfig.get().overrides.task), tree.name)
        return
    config = from_hydra(tree)
    from mfa_train.training.run import run  # torch and deepspeed take seconds: not for --help or a mistyped key

    run(config)


def run_member(overrides: list[str], name: str) -> None:
    """Runs one member of a sweep; the keys whose value the command line did not hold as it is are those swept."""
    swept = [override for override in overrides if override not in sys.argv]
    if not any(override.startswith("name=") for override in overrides):
        beside = [override for override in swept if override.split("=")[0] not in ("attention", "model")]
        overrides = [*overrides, f"name={'-'.join([name, *beside])}"]
    print(f"\n=== {' '.join(swept)}", flush=True)
    if subprocess.run([sys.executable, __file__, *overrides]).returncode:
        failed_members.append(" ".join(swept))


def door() -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print its errors itself, over several lines
    status = report(main)
    if failed_members:
        print(f"error: {len(failed_members)} of the sweep's members failed: {'; '.join(failed_members)}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(door())
