"""The trainer's door: configs/ and the command line become one config, `mfa_train.training.run` does the rest.

With -m each member of the sweep runs in a process of its own, under the name of the model and of the keys swept
(`mfa_train.launch.sweep`).
"""

import os
import sys

import hydra
from omegaconf import DictConfig

from mfa_train import config as configs
from mfa_train.doors import report, trainer
from mfa_train.errors import ConfigError

MULTIRUN = {"-m", "--multirun"}
SHOWN = {"-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info", "-p", "--package", "--resolve"}
"""Hydra's options that show something and run nothing."""


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
def show(tree: DictConfig) -> None:
    """Hydra's own answer to one of `SHOWN`."""


def main() -> None:
    typed = sys.argv[1:]
    options = {word.split("=")[0] for word in typed if word.startswith("-")}
    if unknown := sorted(options - MULTIRUN - SHOWN):
        raise ConfigError(
            f"{unknown[0]}: no such option. Keys are typed without dashes, as optimizer.lr=1e-3; python train.py "
            "--help lists them"
        )
    if options & SHOWN:
        sys.argv[1:] = configs.as_meant([word for word in typed if word not in MULTIRUN])
        show()
    elif options & MULTIRUN:
        from mfa_train.launch.sweep import run_sweep
        from mfa_train.scaling.ladder.members import members

        run_sweep(members([word for word in typed if word not in MULTIRUN]), [sys.executable, __file__])
    else:
        config = configs.load(typed)
        configs.require_one(config, typed)
        trainer()(config)


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print its errors itself, over several lines
    sys.exit(report(main))
