"""The trainer's door: Hydra composes configs/ and the command line, `mfa_train.training.run` does the rest.

With -m each member of the sweep runs in a process of its own, under the name of the model and of the keys swept.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mfa_train.config import from_hydra
from mfa_train.doors import report
from mfa_train.errors import ConfigError, Stopped, TrainingError

members: list[tuple[DictConfig, HydraConf]] = []
"""What Hydra composed, each with Hydra's own settings: one, or with -m one for each member of the sweep."""


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def compose(tree: DictConfig) -> None:
    members.append((tree, HydraConfig.get()))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if {"-m", "--multirun"} & set(sys.argv):
            sys.argv.append(f"hydra.sweep.dir={folder}")  # where Hydra leaves a multirun.yaml that nobody needs
        try:
            compose()
        except ValueError as error:  # Hydra's own for `=3` or `model=null`
            raise ConfigError(f"{error}: expected GROUP=CHOICE or KEY=VALUE, as attention=mla") from error
    if members and members[0][1].mode == RunMode.MULTIRUN:
        run_members()
    for tree, _ in members:  # none after --help and the like
        config = from_hydra(tree)
        from mfa_train.training.run import run  # torch and deepspeed take seconds: not for --help or a mistyped key

        run(config)


def run_members() -> None:
    """Runs the sweep's members one after another; raises TrainingError naming those that failed."""
    if "RANK" in os.environ:
        raise ConfigError("-m starts a process for each member itself: type it without torchrun, or one member with it")
    _require_shapes()
    failed = []
    for tree, hydra_config in members:
        overrides = list(hydra_config.overrides.task)
        # The keys whose value the command line did not hold as it is are those swept over.
        swept = {override.split("=")[0]: override for override in overrides if override not in sys.argv}
        if "name" not in swept:
            named = any(override.startswith("name=") for override in overrides)
            told = () if named else ("attention", "model")  # by the default name
            beside = [re.sub(r"[^\w.=+-]", "_", swept[key]) for key in swept if key not in told]
            overrides.append(f"name='{'-'.join([tree.name, *beside])}'")
        print(f"\n=== {' '.join(swept.values())}", flush=True)
        status = run_member(overrides)
        if status in (Stopped.exit_status, 130, -signal.SIGTERM, -signal.SIGUSR1):
            raise Stopped(f"the sweep, at {' '.join(swept.values())}; the same command goes on from there")
        if status:
            failed.append(" ".join(swept.values()))
    members.clear()
    if failed:
        raise TrainingError(f"{len(failed)} of the sweep's members failed: {'; '.join(failed)}")


def run_member(overrides: list[str]) -> int:
    """Its exit status. A signal that asks it to stop is passed on, and it is given the time to save."""
    member = subprocess.Popen([sys.executable, __file__, *overrides])
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal sends it to the member as well
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: member.send_signal(number))
    return member.wait()


def _require_shapes() -> None:
    """Raises ConfigError before the first member trains where `match` finds no shape for a later one."""
    wanted = [(tree.name, config) for tree, _ in members if (config := from_hydra(tree)).match.wanted]
    if wanted:
        from mfa_train.budget.match import matched

    for name, config in wanted:
        try:
            matched(config)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print its errors itself, over several lines
    sys.exit(report(main))
