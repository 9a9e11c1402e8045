"""A ladder that all tests of the report read, and a browser."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.scaling.synthetic import VARIANTS, write_ladder, write_scores


@pytest.fixture(scope="session")
def ladder(tmp_path_factory) -> Path:
    """81 runs: mha, mla and mfa, 3 sizes, 3 token budgets, 3 seeds."""
    folder = tmp_path_factory.mktemp("ladder")
    write_ladder(folder)
    return folder


@pytest.fixture(scope="session")
def compare():
    """`compare(*typed)` runs the command and gives the finished process."""

    def run(*typed) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "mfa_train.cli", "compare", *map(str, typed)],
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=120,
        )

    return run


@pytest.fixture(scope="session")
def report(ladder, compare, tmp_path_factory) -> Path:
    """The report of the ladder."""
    folder = tmp_path_factory.mktemp("report")
    done = compare(ladder, "--out", folder, "tracking=none")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def few(tmp_path) -> Path:
    """Four runs: mha and mfa, one size, one budget, two seeds."""
    write_ladder(tmp_path / "runs", [VARIANTS[0], VARIANTS[2]], {"4x192": 3.2e6}, (5e7,), (1, 2))
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def scored_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    for run in write_ladder(folder, VARIANTS, {"4x192": 3.2e6}, (5e7,), (1, 2, 3)):
        write_scores(run, "told", {"mla": 0.2, "mfa": -0.2}.get(run.name[:3], 0.0))
        write_scores(run, "level")
    return folder


@pytest.fixture
def scored(scored_once, tmp_path) -> Path:
    """mha, mla and mfa, one size, three seeds, scored on two tasks: on `told` mla is 0.2 bits per byte worse and mfa as
    much better, on `level` none is."""
    return Path(shutil.copytree(scored_once, tmp_path / "runs"))


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium that can reach no network, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[test]'")
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("no chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()
