"""Runs on two hosts with real sshd, through DeepSpeed's launcher and pdsh."""

import re
import shutil
import signal
import time

import pytest
import yaml

from tests.conftest import ROOT
from tests.end_to_end.conftest import metrics
from tests.launch.conftest import STRANGE, quoted, summary
from tests.launch.ssh_hosts import Hosts, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with Hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


def test_a_host_that_is_cut_off_ends_the_job_by_name_and_the_run_goes_on_when_it_is_back(hosts, launch, tmp_path):
    """And a config value gets to the ranks as it was typed and executes nothing; Ctrl-C saves."""
    typed = ("name=run", "training.steps=3000", f"sample.prompt={quoted(STRANGE)}", *hosts.overrides)
    process = launch.start(*typed, environment=hosts.environment)
    while not list((tmp_path / "run" / "checkpoints").glob("step-????????")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    hosts.cut(2)
    at = time.monotonic()
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 1 and time.monotonic() - at < 60
    assert f"error: host {hosts.names[1]} can't be reached any more" in output.splitlines()[-1]
    assert hosts.on(hosts.names[0], "pgrep -f mfa_train.launch.[r]ank").stdout == ""

    hosts.mend(2)
    process = launch.start(*typed, environment=hosts.environment)
    before = len(metrics(tmp_path / "run"))
    while len(metrics(tmp_path / "run")) < before + 5:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert re.search(r"^goes on from .*, after step \d+$", output, re.M) and "SIGINT: asking the run to save" in output
    assert re.search(r"^stopped: SIGUSR1 after step \d+; saved in", output, re.M)
    assert summary(tmp_path / "run")["status"] == "stopped"
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["sample"]["prompt"] == STRANGE
    assert not (ROOT / "pwned").exists()


@pytest.mark.ranks
def test_a_run_whose_rank_is_killed_on_a_host_is_started_again_by_itself_and_completes(hosts, launch, tmp_path):
    typed = ("name=run", "training.steps=300", "cluster.max_restarts=1", *hosts.overrides)
    process = launch.start(*typed, environment=hosts.environment)
    while not list((tmp_path / "run" / "checkpoints").glob("step-????????")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    hosts.on(hosts.names[1], "pkill -KILL -f mfa_train.launch.[r]ank")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert re.search(r"^=== .*: started again from step \d+, restart 1 of 1$", output, re.M), output
    assert [record["step"] for record in metrics(tmp_path / "run")] == list(range(1, 301))


def test_a_launcher_that_is_killed_leaves_no_rank_on_any_host(hosts, launch):
    def ranks() -> list[str]:
        return [hosts.on(name, "pgrep -f mfa_train.launch.[r]ank").stdout for name in hosts.names]

    process = launch.start("name=run", "training.steps=3000", *hosts.overrides, environment=hosts.environment)
    while not all(ranks()):
        assert process.poll() is None, process.communicate()[0]
    process.kill()
    deadline = time.monotonic() + 60
    while any(ranks()):
        assert time.monotonic() < deadline


def test_what_is_wrong_with_a_host_is_told_in_one_line_with_its_name(hosts, launch, tmp_path):
    first, second = hosts.names
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(f"{first} slots=1\n{hosts.subnet}.99 slots=1\n")
    twice, renamed = tmp_path / "twice", tmp_path / "renamed"
    twice.write_text(f"{first} slots=1\n{first} slots=1\n")
    renamed.write_text(f"{first} slots=1\nroot@{first} slots=1\n")
    mistakes = {
        f"cluster.hostfile={elsewhere}": f"host {hosts.subnet}.99: cannot be reached by ssh without a password (ssh: "
        "connect to host",
        f"cluster.hostfile={twice}": f"host {first} stands there twice",
        f"cluster.hostfile={renamed}": f"host root@{first}: is the machine {first} by another name",
        "cluster.devices_per_node=2": f"host {first}: slots=1 in ",
        "cluster.port=22": f"host {first}: cluster.port=22 is in use there",
        f"runs_dir={hosts.folder}/private": f"host {second}: {hosts.folder}/private/mfa-nano is not the folder that it "
        "is here",
    }
    for typed, told in mistakes.items():
        done = launch(*hosts.overrides, typed, environment=hosts.environment)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stderr.startswith("error: ") and told in done.stderr
    assert not list(tmp_path.glob("*nano*"))


ELSEWHERE = {
    r"torch 2\.0\.1 is installed there, \S+ here: all hosts must have the same": (
        "import importlib.metadata as known; version = known.version\n"
        "known.version = lambda name: '2.0.1' if name == 'torch' else version(name)"
    ),
    "its clock is 3[67] s behind this machine's: set it": (
        "import time; now = time.time; time.time = lambda: now() - 37"
    ),
}
"""What is told, and what differs on the second host."""


@pytest.mark.parametrize("told", ELSEWHERE)
def test_hosts_with_other_versions_or_another_clock_are_told_by_name(told, hosts, launch, tmp_path):
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(
        f"import socket\nif socket.gethostname() == 'host-2':\n    exec({ELSEWHERE[told]!r}, globals())\n"
    )
    done = launch(*hosts.overrides, environment=hosts.environment | {"PYTHONPATH": f"{tmp_path}/python:{ROOT}"})
    assert done.returncode == 2 and not list(tmp_path.glob("*nano*"))
    assert re.fullmatch(f"error: host {hosts.names[1]}: {told}.*\n", done.stderr)


def test_a_tool_that_is_missing_is_told(hosts, launch, tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in ("ssh", "sh"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    done = launch(*hosts.overrides, environment=hosts.environment | {"PATH": str(tmp_path / "bin")})
    assert done.returncode == 2 and "pdsh is not installed here" in done.stderr
