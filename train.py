"""The trainer's door: Hydra composes configs/ and the command line, `mfa_train.training.run` does the rest.

With -m each member of the sweep runs in a process of its own, under the name of the model and of the keys swept
(`mfa_train.launch.sweep`).
"""

import os
import sys

import hydra
from omegaconf import DictConfig

from mfa_train import config as configs
from mfa_train.doors import report
from mfa_train.errors import ConfigError

MULTIRUN = {"-m", "--multirun"}
composed: list[DictConfig] = []
"""What Hydra composed."""


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def compose(tree: DictConfig) -> None:
    composed.append(tree)


def main() -> None:
    typed = sys.argv[1:]
    if MULTIRUN & set(typed) and not {"-h", "--help"} & set(typed):
        from mfa_train.launch.sweep import run_sweep
        from mfa_train.scaling.ladder import members

        run_sweep(members([word for word in typed if word not in MULTIRUN]), [sys.executable, __file__])
        return
    try:
        compose()
    except ValueError as error:  # Hydra's own for `=3` or `model=null`
        raise ConfigError(f"{error}: expected GROUP=CHOICE or KEY=VALUE, as attention=mla") from error
    for tree in composed:  # none after --help and the like
        config = configs.from_hydra(tree)
        configs.require_one(config, typed)
        from mfa_train.training.run import run  # torch and deepspeed take seconds: not for --help or a mistyped key

        run(config)


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print its errors itself, over several lines
    sys.exit(report(main))
