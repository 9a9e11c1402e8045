"""`mfa-train launch` on this machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import yaml

from mfa_train import config as configs
from mfa_train.config import ClusterConfig
from mfa_train.errors import ConfigError
from mfa_train.launch.checks import require_trainable
from mfa_train.launch.environment import environment
from mfa_train.launch.hostfile import read_hosts
from mfa_train.launch.job import make_job, read_job
from mfa_train.launch.local import require_one_node
from mfa_train.launch.node import Node
from mfa_train.launch.output import RankOutput, first_to_fail, log_of
from mfa_train.launch.ssh import _Run
from mfa_train.launch.status import statuses
from mfa_train.launch.sweep import _Attempt, _Sweep
from tests.conftest import ROOT
from tests.launch.conftest import STRANGE, quoted, summary


@pytest.mark.real_command
def test_two_ranks_share_a_folder_with_a_log_each_and_get_what_was_typed(launch, tmp_path):
    """Rank 0 is on the terminal as well. resume=never makes way for the logs, too."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("an older run")
    done = launch(
        "name=run",
        "training.steps=4",
        "schedule.warmup_steps=1",
        f"sample.prompt={quoted(STRANGE)}",
        "resume=never",
        "cluster.devices_per_node=2",
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    first, second = ((run / "logs" / f"rank-0000{rank}.log").read_text() for rank in (0, 1))
    assert "held-out bits per byte" in done.stdout and "held-out bits per byte" in first and "step/s" not in first
    assert "held-out" not in second and re.match(r"=== \S+ start \S+, rank 1 on ", second)
    assert yaml.safe_load((run / "config.yaml").read_text())["sample"]["prompt"] == STRANGE
    assert json.loads((run / "starts.jsonl").read_text())["world_size"] == 2
    assert (tmp_path / "run~1" / "config.yaml").read_text() == "an older run"
    assert not (ROOT / "pwned").exists()
    assert [(one.name, one.state, one.step, one.steps) for one in statuses(tmp_path)] == [
        ("run", "finished", 4, 4),
        ("run~1", "unreadable", 0, 0),
    ]


def test_the_traceback_of_the_first_rank_to_fail_is_shown_once_whichever_it_is(launch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import mfa_train.training.run as run\n"
        "    def train(*_):\n"
        "        raise KeyError('rank 1 has lost its way')\n"
        "    run.train = train\n"
    )
    done = launch(
        "name=run", "cluster.devices_per_node=2", environment=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1 and "KeyError: 'rank 1 has lost its way'" in done.stderr
    assert re.search(r"^rank 1 on \S+ failed; its log is .*rank-00001.log:$", done.stderr, re.M)
    assert "Traceback" in (tmp_path / "run" / "logs" / "rank-00000.log").read_text()  # it lost the connection
    assert summary(tmp_path / "run")["status"] == "failed"


def test_a_killed_rank_is_the_failure_and_those_that_lost_the_connection_wait_for_its_node_to_say_so(tmp_path, capsys):
    job = make_job(configs.members([f"runs_dir={tmp_path}", "name=run"]), tmp_path)
    node = Node(job, 0, "now", 0, "127.0.0.1", 1)
    node.ranks = [SimpleNamespace(poll=lambda: 1), SimpleNamespace(poll=lambda: -9, returncode=-9)]
    assert node._first_to_fail() == 1
    log = log_of(tmp_path / "run", 0)
    log.parent.mkdir(parents=True)
    log.write_text("=== a start\nTraceback\n")
    victim = RankOutput.__new__(RankOutput)
    victim.run_dir, victim.rank, victim.start, victim.begin, victim.terminal = log.parents[1], 0, "now", 0, sys.stderr
    began = time.monotonic()
    victim.lost(KeyError("its own mistake"))
    assert time.monotonic() - began < 0.5
    later = threading.Timer(0.1, node._show, (1, 0))
    later.start()
    victim.lost(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"))
    later.join()
    victim.failed()
    told = capsys.readouterr().err
    assert "rank 1 on " in told and "(killed by SIGKILL)" in told and "rank 0" not in told and "Traceback" not in told
    assert first_to_fail(log.parents[1], "now") == 1


def test_a_run_says_how_it_stands_from_its_files_alone(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(configs.to_yaml(configs.load(["training.steps=100", "training.batch_size=8"])))
    (run / "metrics.jsonl").write_text(
        "".join(
            json.dumps(
                {"step": step, "train/loss": 5.0 - step / 100, "tokens_per_second": 512.0, "seconds": step * 1.0}
            )
            + "\n"
            for step in range(1, 11)
        )
    )
    (run / "run.lock").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    (one,) = statuses(tmp_path)
    assert (one.state, one.step, one.loss, one.tokens_per_second) == ("running", 10, 4.9, 512.0)
    assert one.seconds_left == 90 * 8 * 256 / 512
    (run / "run.lock").write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    assert statuses(tmp_path)[0].state == "silent"  # this process does not hold the lock
    (run / "summary.json").write_text(json.dumps({"status": "stopped"}))
    assert statuses(tmp_path)[0].state == "stopped"
    (run / "launch").mkdir()
    (run / "launch" / "submitted.json").write_text(json.dumps({"job": "17_2", "at": 4e9}))
    assert (statuses(tmp_path)[0].state, statuses(tmp_path)[0].job) == ("queued", "17_2")

    early = tmp_path / "early"  # a launch that failed before there was a run
    (early / "launch").mkdir(parents=True)
    (early / "logs").mkdir()
    (early / "launch" / "job.json").write_text("{}")
    os.utime(early / "launch" / "job.json", (1, 1))
    (early / "logs" / "failure-1.txt").write_text("0 1 failed")
    assert [(one.name, one.state) for one in statuses(tmp_path)] == [("early", "failed"), ("run", "queued")]


CLUSTER = configs.load(["cluster=ssh", "cluster.nodes=2", "cluster.devices_per_node=8"]).cluster
HOSTFILES = {
    "a slots=8\n# b\nb slots=8\n": None,
    "a slots=8\na slots=8\n": "host a stands there twice",
    "a slots=8\nb slots=4\n": "host b: slots=4 in ",
    "a slots=8\n": "cluster.nodes=2: .* names 1 host: type cluster.nodes=1",
    "a slots=8\nb slots=0\n": "host b: slots=0 in .*: type how many ranks it starts, or delete the line",
    "a 8\n": "line 1: expected a host and its slots, as node-1 slots=8, not a 8",
    "$(b) slots=8\n": "line 1: expected a host and its slots",
    "": "names no host",
}


@pytest.mark.parametrize("text", HOSTFILES)
def test_a_hostfile_is_what_the_cluster_keys_say_or_the_host_is_named(text, tmp_path):
    path = tmp_path / "hosts"
    path.write_text(text)
    cluster = ClusterConfig(**{**vars(CLUSTER), "hostfile": str(path)})
    if HOSTFILES[text] is None:
        assert read_hosts(cluster) == ["a", "b"]
    else:
        with pytest.raises(ConfigError, match=HOSTFILES[text]):
            read_hosts(cluster)


def test_an_environment_file_is_taken_as_it_stands(tmp_path):
    path = tmp_path / "environment"
    path.write_bytes("# network\r\nA=$(touch pwned) 'b'\r\n\r\nB=\r\n  C=é=\u00fc#1\n".encode())
    assert environment(str(path)) == {"A": "$(touch pwned) 'b'", "B": "", "C": "é=ü#1"}


ODD_LINES = {
    b"export A=hunter2": "expected KEY=VALUE, as NCCL_SOCKET_IFNAME=ib0: delete export",
    b"hunter2": "expected KEY=VALUE",
    b"=hunter2": "expected KEY=VALUE",
    b"A = hunter2": "no spaces around =",
    b"A= hunter2": "A: no spaces around =",
    b"A-B=hunter2": "expected KEY=VALUE",
    b"1A=hunter2": "expected KEY=VALUE",
    "É=hunter2".encode(): "expected KEY=VALUE",
    b'A="hunter2"': "A: values are taken as they stand: delete the quotes",
    b"B=hunter2": "B stands there twice",
    b"A=hunter2\0": "holds characters",
    b"A=x\rC=hunter2": "holds characters",
    b"A=hunter2\x1b[31m": "holds characters",
    b"\xef\xbb\xbfA=hunter2": "a byte order mark",
    b"A=hunter2\xe9": "is not UTF-8 text",
    "A=hunter2".encode("utf-16"): "",
    **{
        f"{name}=hunter2".encode(): f"{name} is set for each rank by the launcher"
        for name in (
            "RANK",
            "LOCAL_RANK",
            "WORLD_SIZE",
            "LOCAL_WORLD_SIZE",
            "NODE_RANK",
            "GROUP_RANK",
            "MASTER_ADDR",
            "MASTER_PORT",
            "CUDA_VISIBLE_DEVICES",
            "TORCHELASTIC_RUN_ID",
            "SLURM_JOB_ID",
        )
    },
    b"LD_LIBRARY_PATH=hunter2": "LD_LIBRARY_PATH is read as a process starts",
    b"PYTHONPATH=hunter2": "PYTHONPATH is read",
}


@pytest.mark.parametrize("line", ODD_LINES)
def test_an_odd_line_of_an_environment_file_is_told_by_its_number_and_never_its_value(line, tmp_path):
    path = tmp_path / "environment"
    path.write_bytes(b"# a comment\nB=1\n" + line + b"\n")
    with pytest.raises(ConfigError, match=f"^cluster.environment={path}: line 3: .*") as error:
        environment(str(path))
    assert ODD_LINES[line] in str(error.value) and "hunter2" not in str(error.value)


def test_an_environment_that_is_no_plain_small_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text("A=1\n" * 300_000)
    for name in ("pipe", "large", "nowhere", "", "../.."):
        with pytest.raises(ConfigError, match="^cluster.environment="):
            environment(str(tmp_path / name))
    with pytest.raises(ConfigError, match="not a plain file"):
        environment("/dev/zero")


def test_no_file_of_a_launch_holds_the_environments_values_and_the_ranks_have_them(tmp_path, monkeypatch):
    """A file that is gone when a rank starts is told by its name."""
    path, monkeypatch = tmp_path / "environment", monkeypatch
    path.write_text("MFA_TRIED=hunter2\n")
    monkeypatch.chdir(tmp_path)
    job = make_job(configs.members([f"runs_dir={tmp_path}", "name=run", "cluster.environment=environment"]), tmp_path)
    job.write()
    assert job.environment == str(path) and "hunter2" not in (tmp_path / "run" / "launch" / "job.json").read_text()
    assert read_job(job.word) == job
    rank = (
        f"import os, sys, types; sys.modules['mfa_train.training.run'] = types.SimpleNamespace(run=lambda config: "
        "print(os.environ['MFA_TRIED'])); from mfa_train.launch.rank import work; from mfa_train.launch.job import "
        "read_job; "
        f"sys.exit(work(read_job({job.word!r}), 0, 'now'))"
    )
    done = [
        subprocess.run(
            [sys.executable, "-c", rank], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
    ]
    path.unlink()
    done.append(
        subprocess.run(
            [sys.executable, "-c", rank], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
    )
    assert [one.returncode for one in done] == [0, 2] and done[0].stdout == "hunter2\n", done
    assert done[1].stderr.startswith(f"error: cluster.environment={path}: cannot be read (No such file")
    old = json.loads((tmp_path / "run" / "launch" / "job.json").read_text()) | {"environment": {"A": "1"}}
    (tmp_path / "run" / "launch" / "job.json").write_text(json.dumps(old))
    with pytest.raises(ConfigError, match="not a job of this version .* launch it again"):
        read_job(job.word)


class Process:
    """Stands for a rank or a member that never ends by itself."""

    def __init__(self):
        self.got = []
        self.send_signal = self.got.append
        self.poll = lambda: None


TERM, USR1, INT, KILL = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL
SIGNALS = [
    ([TERM, INT], [TERM, TERM]),
    ([USR1, INT], [USR1, TERM]),
    ([TERM, TERM, USR1], [TERM, TERM, USR1]),
    ([INT, INT], [TERM, KILL]),
    ([TERM, INT, INT], [TERM, TERM, KILL]),
    ([INT, TERM, INT], [TERM, TERM, KILL]),
]
"""What comes, and what is passed on."""


@pytest.mark.parametrize("come, passed", SIGNALS)
def test_the_second_sigint_kills_and_nothing_before_it(come, passed, tmp_path):
    members = configs.members([f"runs_dir={tmp_path}", "seed=1,2"])
    node, sweep = Node(make_job(members[:1], tmp_path), 0, "now", 0, "127.0.0.1", 1), _Sweep(members, [])
    rank, member = Process(), Process()
    node.ranks, sweep.running = [rank], {_Attempt(members[0], 0, member): 0}
    for number in come:
        node._pass_on(number, None)
        sweep._on_signal(number, None)
    assert rank.got == member.got == passed


def test_a_run_over_ssh_is_killed_by_the_second_sigint_alone(tmp_path, monkeypatch):
    """A sweep of such runs hands signals on as they come: killed, a member would leave its hosts training."""
    monkeypatch.setattr("mfa_train.launch.ssh.signal_first", lambda hosts, job: True)
    members = configs.members([f"runs_dir={tmp_path}", "cluster=ssh", "seed=1,2"])
    for come, passed in SIGNALS:
        run = _Run(["a"], None, "now")
        sweep, member = _Sweep(members, []), Process()
        sweep.running = {_Attempt(members[0], 0, member): 0}
        for number in come:
            run._ask(number)
            sweep._on_signal(number, None)
        assert run.killed == (KILL in passed) and member.got == come


def test_a_machine_is_not_filled_with_ranks():
    (member,) = configs.members(["cluster.devices_per_node=1000", "training.batch_size=1000"])
    with pytest.raises(
        ConfigError, match="cluster.devices_per_node=1000: this machine has .* cores: type cluster.devices_per_node="
    ):
        require_one_node(member)


MISTAKES = {
    "training.batch_size=6": "training.batch_size=6 is not a multiple of 16 ranks",
    "model=7b cluster.device=a100-40gb training.batch_size=64": "the run needs about",
    "data.path=/nowhere/corpus": "data.path=/nowhere/corpus: no prepared corpus is there",
    "model.vocab_size=100": "model.vocab_size=100 is smaller than the tokenizer's vocabulary of 4096",
    "cluster.shared=[/scratch]": "runs_dir=runs: not in a folder that all nodes share",
    "schedule.warmup_steps=1000": "does not fit into 700 steps",
    "attention.kernel=tiled cluster.device=cpu precision=fp32": "attention.kernel=tiled works in 16 bit alone",
    "attention.kernel=flash precision=fp32": "attention.kernel=flash works in 16 bit alone",
    "attention.kernel=flash cluster.device=cpu precision=bf16": "attention.kernel=flash needs a CUDA device",
    "training.sequence_length=10000000 plan.check=false": (
        "training.sequence_length=10000000 is longer than the training data"
    ),
    "sample.max_new_tokens=9000": "a run's closing sample has at most 8,192 tokens",
    "resume=/nowhere/step-00000001": (
        "resume=/nowhere/step-00000001: expected auto, must, never, or a folder that is there"
    ),
    "resume=must": "resume=must: there is no checkpoint in",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_what_would_fail_in_the_job_fails_before_it_is_submitted(typed, prepared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run is, as `make train` leaves one
    overrides = [
        "cluster=slurm",
        "cluster.nodes=2",
        "cluster.device=h100-80gb",
        "training.batch_size=16",
        f"data_dir={prepared_data}",
    ]
    with pytest.raises(ConfigError, match="^(?!:).*" + re.escape(MISTAKES[typed])):
        require_trainable(configs.members([*overrides, *typed.split()]))
