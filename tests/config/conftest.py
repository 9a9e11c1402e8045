"""A configs/ of a test's own."""

import shutil

import pytest

from mfa_train.config import compose
from tests.conftest import ROOT


@pytest.fixture
def configs_here(tmp_path, monkeypatch):
    """A copy of configs/ in a folder to work in."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("local"))
    monkeypatch.setattr(compose, "CONFIG_DIR", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "configs"
