"""`mfa-train launch` on this machine."""

import json
import os
import re
import socket

import pytest
import yaml

from mfa_train import config as configs
from mfa_train.config import ClusterConfig
from mfa_train.errors import ConfigError
from mfa_train.launch.checks import require_trainable
from mfa_train.launch.hostfile import read_hosts
from mfa_train.launch.job import environment
from mfa_train.launch.status import statuses
from tests.conftest import ROOT
from tests.launch.conftest import STRANGE, quoted, summary


def test_two_ranks_share_a_folder_with_a_log_each_and_get_what_was_typed(launch, tmp_path):
    """Rank 0 is on the terminal as well. resume=never makes way for the logs, too."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("an older run")
    done = launch("name=run", "training.steps=4", "schedule.warmup_steps=1", f"sample.prompt={quoted(STRANGE)}",
                  "resume=never", "cluster.devices_per_node=2")
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
        ("run", "finished", 4, 4), ("run~1", "unreadable", 0, 0)]


def test_the_traceback_of_the_first_rank_to_fail_is_shown_once_whichever_it_is(launch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import mfa_train.training.loop as loop\n"
        "    def train(*_):\n"
        "        raise KeyError('rank 1 has lost its way')\n"
        "    loop.train = train\n")
    done = launch("name=run", "cluster.devices_per_node=2",
                  environment=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1 and "KeyError: 'rank 1 has lost its way'" in done.stderr
    assert re.search(r"^rank 1 on \S+ failed; its log is .*rank-00001.log:$", done.stderr, re.M)
    assert "Traceback" in (tmp_path / "run" / "logs" / "rank-00000.log").read_text()  # it lost the connection
    assert summary(tmp_path / "run")["status"] == "failed"


def test_a_run_says_how_it_stands_from_its_files_alone(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(configs.to_yaml(configs.load(["training.steps=100", "training.batch_size=8"])))
    (run / "metrics.jsonl").write_text("".join(json.dumps(
        {"step": step, "train/loss": 5.0 - step / 100, "tokens_per_second": 512.0, "seconds": step * 1.0}) + "\n"
        for step in range(1, 11)))
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
    path.write_text("# network\nA=$(touch pwned) 'b'\n\nB=\n")
    assert environment(str(path)) == {"A": "$(touch pwned) 'b'", "B": ""}
    path.write_text("export A=1\n")
    with pytest.raises(ConfigError, match="line 1: expected KEY=VALUE"):
        environment(str(path))


MISTAKES = {
    "training.batch_size=6": "training.batch_size=6 is not a multiple of 16 ranks",
    "model=7b cluster.device=a100-40gb training.batch_size=64": "the run needs about",
    "data.path=/nowhere/corpus": "data.path=/nowhere/corpus: no prepared corpus is there",
    "model.vocab_size=100": "model.vocab_size=100 is smaller than the tokenizer's vocabulary of 4096",
    "cluster.shared=[/scratch]": "runs_dir=runs: not in a folder that all nodes share",
    "schedule.warmup_steps=1000": "does not fit into 700 steps",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_what_would_fail_in_the_job_fails_before_it_is_submitted(typed, prepared_data):
    overrides = ["cluster=slurm", "cluster.nodes=2", "cluster.device=h100-80gb", "training.batch_size=16",
                 f"data_dir={prepared_data}"]
    with pytest.raises(ConfigError, match="^(?!:).*" + re.escape(MISTAKES[typed])):
        require_trainable(configs.members([*overrides, *typed.split()]))
