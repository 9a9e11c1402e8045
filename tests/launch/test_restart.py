"""When a run that crashed is started again by itself, on this machine."""

import json
import os
import re
import subprocess
from unittest.mock import Mock

import pytest

from mfa_train import config as configs
from mfa_train.errors import HUNG_STATUS, DataError, NoDevice, TrainingError
from mfa_train.launch import local, restart, ssh
from mfa_train.launch import rank as launched
from mfa_train.launch.job import make_job
from mfa_train.launch.restart import Restarts, crash_of, note_crash, words_of
from mfa_train.training.processes.device_kind import VISIBLE
from tests.conftest import ROOT
from tests.launch.conftest import curve

CRASHES = """
import os
if os.environ.get("RANK") == "{rank}":
    import signal, mfa_train.training.steps.loop as loop
    from pathlib import Path
    from mfa_train.training.processes.watchdog import Watchdog
    alive = Watchdog.alive
    def crash(self, step):
        alive(self, step)
        if step in {steps} and not Path(f"{folder}/crashed-{{step}}").exists():
            if {once}:
                Path(f"{folder}/crashed-{{step}}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    Watchdog.alive = crash
"""


def crashing(folder, rank: int, steps: list[int], once: bool = True) -> dict[str, str]:
    """An environment in which `rank` gets SIGKILL after each of `steps`, `once` or whenever it gets there."""
    (folder / "python").mkdir(exist_ok=True)
    (folder / "python" / "sitecustomize.py").write_text(
        CRASHES.format(rank=rank, steps=steps, once=once, folder=folder)
    )
    return os.environ | {"PYTHONPATH": f"{folder}/python:{ROOT}"}


@pytest.mark.ranks
def test_a_killed_rank_is_started_again_and_leaves_the_undisturbed_curve(launch, tmp_path):
    typed = ("training.steps=12", "cluster.devices_per_node=2", "checkpoint.every_steps=3")
    done = launch("name=run", *typed, "cluster.max_restarts=1", environment=crashing(tmp_path, 1, [8]))
    assert done.returncode == 0, done.stderr
    [told] = re.findall("^=== .*started again.*$", done.stdout, re.M)
    assert re.match(r"=== rank 1 on \S+ was killed by SIGKILL: started again from step [36], restart 1 of 1", told)
    assert re.search(r"^rank 1 on \S+ failed \(killed by SIGKILL\)", done.stderr, re.M) and "rank 0" not in done.stderr
    assert launch("name=undisturbed", *typed).returncode == 0
    assert curve(tmp_path / "run") == curve(tmp_path / "undisturbed")


@pytest.mark.ranks
def test_a_run_that_crashes_where_it_crashed_before_is_not_started_a_second_time(launch, tmp_path):
    done = launch(
        "name=run", "cluster.max_restarts=5", environment=crashing(tmp_path, 0, [8], once=False) | {"RANK": "0"}
    )
    assert done.returncode == 137
    first, second = re.findall("^=== .*started again.*$", done.stdout, re.M)
    assert first.endswith("started again from step 5, restart 1 of 5")
    assert re.search(r"not started again: it got to step [78] ", second)


@pytest.mark.parametrize("status, starts", [(2, 1), (78, 1), (75, 1), (1, 2), (137, 2)])
def test_a_mistake_of_the_config_and_a_stop_are_never_started_again(status, starts, tmp_path, monkeypatch):
    """A crash is, once."""
    made = []

    class Failing:
        asked = False

        def __init__(self, *_):
            made.append(self)

        def run(self) -> int:
            return status

    steps = iter([0, 5, 5, 10])
    monkeypatch.setattr(Restarts, "_saved", lambda self: next(steps, 10))
    monkeypatch.setattr(local, "Node", Failing)
    [member] = configs.members([f"runs_dir={tmp_path}", "cluster.max_restarts=1"])
    assert local.launch(member, make_job([member], tmp_path)) == status
    assert len(made) == starts


@pytest.mark.parametrize("launcher", ["local", "ssh"])
def test_a_run_that_is_asked_to_stop_between_two_starts_is_not_started(launcher, tmp_path, monkeypatch):
    made = []

    class Crashed:
        asked = False

        def __init__(self, *_):
            made.append(self)

        def run(self) -> int:
            return 137

        watch = lambda self, command: 137  # noqa: E731

    def again(self, why: str) -> bool:
        if launcher == "local":
            made[-1].asked = True
        return True

    def ready(*_):  # asks all hosts, which takes its time
        if made:
            made[-1].asked = True
        return 29500

    monkeypatch.setattr(Restarts, "again", again)
    monkeypatch.setattr(local, "Node", Crashed)
    monkeypatch.setattr(ssh, "_Run", Crashed)
    monkeypatch.setattr(ssh, "read_hosts", lambda cluster: ["a"])
    monkeypatch.setattr(ssh, "require_ready", ready)
    monkeypatch.setattr(ssh, "command_of", lambda *_: [])
    [member] = configs.members([f"runs_dir={tmp_path}", "cluster.max_restarts=1"])
    way = {"local": local, "ssh": ssh}[launcher]
    assert way.launch(member, make_job([member], tmp_path)) == 137 and len(made) == 1


@pytest.fixture
def known(tmp_path, monkeypatch):
    """`known(saved, reached)`: restarts of a run that has saved and got there."""
    at = {}
    monkeypatch.setattr(Restarts, "_saved", lambda self: at["saved"])
    monkeypatch.setattr(Restarts, "_reached", lambda self: at["reached"])

    def made(saved: int, reached: int, most: int = 2) -> Restarts:
        at.update(saved=saved, reached=reached)
        return Restarts(tmp_path, most)

    return made


def test_restarts_are_counted_over_preemptions_and_end_at_what_is_allowed_or_without_progress(known, capsys):
    known(0, 0).begin()
    assert not known(0, 4).again("killed") and "saved nothing since step 0" in capsys.readouterr().out
    assert known(5, 7).again("killed")
    known(5, 7).begin()
    known(10, 12).begin()  # preempted, and queued again
    assert not known(10, 14).again("killed")
    assert known(15, 16).again("killed") and "restart 2 of 2" in capsys.readouterr().out
    known(15, 16).begin()
    assert not known(16, 16).again("killed") and "to step 16 as the start before did" in capsys.readouterr().out
    assert not known(20, 21).again("killed") and "cluster.max_restarts=2 were made" in capsys.readouterr().out
    assert not known(20, 21, most=0).again("killed") and not capsys.readouterr().out
    known(20, 21).forget()
    known(20, 21).begin()
    assert known(25, 26).again("killed")


def test_what_is_counted_survives_a_damaged_file(known, tmp_path):
    known(0, 0).begin()
    (tmp_path / "launch" / "restarts.json").write_text('{"done": ')
    assert known(5, 7).again("killed")
    assert json.loads((tmp_path / "launch" / "restarts.json").read_text())["done"] == 1


def test_where_no_count_can_be_kept_a_start_is_made_and_no_other_behind_it(known, tmp_path, capsys):
    (tmp_path / "launch").touch()  # for a disk that is full
    known(0, 0).begin()
    assert "restarts.json cannot be written (File exists)" in capsys.readouterr().out
    assert not known(5, 7).again("killed")
    assert "killed: not started again: " in (told := capsys.readouterr().out) and "cannot be written" in told


def test_for_a_node_that_has_no_gpu_another_takes_its_place_where_the_run_got_on_before(known, capsys):
    known(0, 0).begin()
    assert not known(0, 0).again("no GPU", without_node=True)  # a cluster that never had one
    assert known(10, 12).again("killed")
    known(10, 12).begin()  # on a node without
    assert known(10, 12).again("no GPU", without_node=True) and "restart 2 of 2" in capsys.readouterr().out
    known(10, 12).begin()
    assert not known(10, 12).again("no GPU", without_node=True) and "=2 were made" in capsys.readouterr().out
    known(10, 12).begin()
    assert not known(10, 12).again("killed") and "as the start before did" in capsys.readouterr().out


@pytest.mark.parametrize("error, shared", [(TrainingError("NaN"), True), (DataError("torn"), False)])
def test_an_error_that_all_ranks_share_is_noted_as_no_nodes_fault(error, shared, tmp_path, monkeypatch):
    def failing(config):
        raise error

    for name in ("PYTORCH_ALLOC_CONF", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", *VISIBLE):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # and as it was, in the end
    monkeypatch.setattr(launched, "trainer", lambda: failing)
    monkeypatch.setattr(launched, "RankOutput", Mock())
    [member] = configs.members([f"runs_dir={tmp_path}", "cluster.max_restarts=1"])
    (member.config.run_dir / "launch").mkdir(parents=True)
    assert launched.work(make_job([member], tmp_path), 0, "7") == 1
    note_crash(member.config.run_dir, "7", 1, 0)  # its node, behind it
    crash = crash_of(member.config.run_dir, "7")
    assert crash["everywhere"] == shared
    assert words_of(crash, 1).startswith("all ranks ended with" if shared else "rank 0 on ")


@pytest.mark.parametrize(
    "status, everywhere, left_out",
    [
        (-9, False, "n2"),
        (1, False, "n2"),
        (1, True, None),
        (NoDevice.exit_status, False, "n2"),
        (HUNG_STATUS, False, None),
    ],
)
def test_the_node_of_a_rank_that_crashed_is_left_out_and_that_of_one_that_is_not_at_fault_is_not(
    status, everywhere, left_out, known, tmp_path, monkeypatch, capsys
):
    [member] = configs.members([f"runs_dir={tmp_path}", "cluster.max_restarts=1"])
    job, run_dir = make_job([member], tmp_path), member.config.run_dir
    (run_dir / "launch").mkdir(parents=True)
    for name, value in (("SLURM_JOB_ID", "17"), ("SLURMD_NODENAME", "n2")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    known(5, 7)
    note_crash(run_dir, "17.0", status, 3, everywhere)
    commands = []

    def scontrol(command, **_):
        commands.append(" ".join(command))
        told = {"show job": "JobState=RUNNING Partition=p ExcNodeList=(null)", "sinfo": "n1 n2 n3"}
        return subprocess.CompletedProcess(
            command, 0, next((told[key] for key in told if key in " ".join(command)), ""), ""
        )

    monkeypatch.setattr(restart.subprocess, "run", scontrol)
    monkeypatch.setattr(restart.signal, "signal", lambda *_: None)
    restart.queue_again(job, 78)
    assert "scontrol requeue 17" in commands
    assert [command for command in commands if "ExcNodeList" in command] == (
        [f"scontrol update JobId=17 ExcNodeList={left_out}"] if left_out else []
    )
    assert ("all ranks" if everywhere else "rank 3 on n2") in capsys.readouterr().out
