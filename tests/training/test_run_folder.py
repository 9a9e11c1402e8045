"""What a run folder holds at every moment, whoever is killed meanwhile."""

import dataclasses

from mfa_train import config as configs
from mfa_train.training.run_folder import RunFolder
from tests.conftest import SMALL


def folder(tmp_path, **training) -> RunFolder:
    config = configs.load([*SMALL, "name=run", f"runs_dir={tmp_path}"])
    return RunFolder(dataclasses.replace(config, training=dataclasses.replace(config.training, **training)))


def test_a_run_that_is_extended_and_killed_is_not_finished(tmp_path):
    first = folder(tmp_path, steps=20)
    first.create({}, None)
    first.close({"status": "finished"})
    first.lock.release()
    assert folder(tmp_path, steps=20).open() == {"status": "finished"}

    extended = folder(tmp_path, steps=30)
    assert extended.open() is None
    extended.create({}, None)
    extended.lock.release()  # as a kill does
    assert folder(tmp_path, steps=30).open() is None
