"""Jobs on a real SLURM cluster of two nodes, both on this machine."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mfa_train.tracking.starts import starts
from tests.conftest import ROOT
from tests.end_to_end.conftest import metrics
from tests.launch.conftest import STRANGE, curve, quoted, summary
from tests.launch.slurm_cluster import Cluster, missing
from tests.launch.test_restart import crashing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")
LADDER = (
    "sweep=ladder",
    "model=280k",
    "seed=1",
    "sweep.ladder.kv_shares=[0.25]",
    "sweep.ladder.batch_size=size",
    "sweep.ladder.tokens_per_parameter=[0.004,0.008]",
    "sweep.ladder.learning_rate=size",
    "schedule.warmup_steps=3",
    "training.sequence_length=32",
    "training.eval_sequences=4",
    "sample.max_new_tokens=0",
    "match.multiple_of=4",
    "precision=fp32",
    "tracking=none",
)
SLURM = ("cluster=slurm", "cluster.nodes=2", "cluster.devices_per_node=1", "cluster.device=cpu")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as made:
        yield made


def status(folder) -> str:
    return subprocess.run(
        [sys.executable, "-m", "mfa_train.cli", "status", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("preempted", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_terminated_and_a_preempted_job_is_queued_again_and_leaves_the_undisturbed_curve(
    preempted, cluster, launch, tmp_path
):
    """And a config value, the run's name too, gets there as it was typed and executes nothing."""
    name = "it's $(touch pwned); 100%n"
    length = ("training.steps=200", "training.eval_every=100", "checkpoint.every_steps=1000")
    job = (f"name={quoted(name)}", f"sample.prompt={quoted(STRANGE)}", *length, *SLURM)
    submitted = launch(*job, environment=cluster.environment)
    assert submitted.returncode == 0, submitted.stderr
    number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
    run = tmp_path / name
    assert f"run folder  {run}" in submitted.stdout and f"scancel {number}" in submitted.stdout

    def trains(start: int) -> bool:
        """Whether this start, counted from 1, has done eight steps."""
        known = starts(run)
        return len(known) == start and len(metrics(run)) >= known[-1]["from_step"] + 8

    for start in (1, 2) if preempted else (1,):
        while not ((run / "metrics.jsonl").is_file() and trains(start)):
            assert cluster.state(number) in ("PENDING", "RUNNING", "COMPLETING"), cluster.state(number)
            time.sleep(0.1)
        if start == 1:
            cluster.call("scancel", "--signal=TERM", number)
    if preempted:
        urgent = cluster.call(
            "sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=true"
        )
        assert cluster.wait_for(urgent.strip(), "COMPLETED")
    undisturbed = launch("name=undisturbed", *length, "cluster.devices_per_node=2")
    assert undisturbed.returncode == 0, undisturbed.stderr
    ended = cluster.wait_for(number, "COMPLETED", "FAILED", "TIMEOUT")
    assert ended == "COMPLETED", (run / "logs" / f"slurm-{number}.out").read_text()
    begun = starts(run)
    assert [start["job"]["SLURM_JOB_ID"] for start in begun] == [number] * (3 if preempted else 2)
    steps = [start["from_step"] for start in begun]
    assert steps[1] >= 8 and steps[-1] < 200 and steps == sorted(set(steps))
    assert curve(run) == curve(tmp_path / "undisturbed")
    assert sorted(path.name for path in (run / "logs").iterdir()) == [
        "rank-00000.log",
        "rank-00001.log",
        f"slurm-{number}.out",
    ]
    assert yaml.safe_load((run / "config.yaml").read_text())["sample"]["prompt"] == STRANGE
    assert not list(ROOT.glob("*pwned*")) and not list(tmp_path.rglob("pwned"))


def test_a_sweep_is_a_job_array_whose_failed_member_alone_is_submitted_again(cluster, launch, tmp_path):
    sweep = ("-m", "attention=mha,gqa", "training.steps=10", "cluster.nodes=1", *SLURM[:1], *SLURM[2:])
    submitted = launch(*sweep, environment=cluster.environment)
    assert submitted.returncode == 0, submitted.stderr
    number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
    (tmp_path / "gqa-nano" / "thesis.txt").write_text("in the way")
    states = [cluster.wait_for(f"{number}_{member}", "COMPLETED", "FAILED") for member in range(2)]
    assert states == ["COMPLETED", "FAILED"]
    [output] = tmp_path.glob(f".sweeps/nano-attention-*/slurm-{number}_1.out")
    assert "holds files that are no run" in output.read_text()
    assert summary(tmp_path / "mha-nano")["attention"] == "mha"
    shown = status(tmp_path)
    assert re.search(rf"mha-nano +finished +10/10 .* {number}_0$", shown, re.M) and re.search("gqa-nano +failed", shown)
    assert yaml.safe_load((tmp_path / "mha-nano" / "config.yaml").read_text())["tracking"]["group"] == "nano-attention"

    (tmp_path / "gqa-nano" / "thesis.txt").unlink()
    again = launch(*sweep, environment=cluster.environment)
    assert again.stdout.count("finished before") == 1
    number = re.search(r"^job +(\d+)$", again.stdout, re.M)[1]
    assert cluster.wait_for(f"{number}_0", "RUNNING") and not cluster.state(f"{number}_1")
    cluster.call("scancel", number)


@pytest.fixture
def launched(cluster, prepared_data, tmp_path):
    """`launched(*words)` launches a ladder of two attentions, each with a branch."""

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "mfa_train.cli",
                "launch",
                "-m",
                *LADDER,
                "attention=mha,mfa",
                f"data_dir={prepared_data}",
                f"runs_dir={tmp_path}",
                *SLURM,
                "cluster.nodes=1",
                *words,
            ],
            cwd=ROOT,
            env=cluster.environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )

    return run


def test_branches_of_a_ladder_would_be_a_second_array_that_waits_for_the_first(launched, tmp_path):
    shown = launched("--dry-run").stdout
    assert [line.split()[0] for line in shown.splitlines() if "--dependency=afterany:FIRST" in line] == ["sbatch"]
    assert len(re.findall("^member ", shown, re.M)) == 4 and not list(tmp_path.iterdir())


@pytest.mark.long
def test_branches_of_a_ladder_are_a_second_array_which_no_failed_run_holds_up(cluster, launched, tmp_path):
    submitted = launched()
    assert submitted.returncode == 0, submitted.stderr
    first, second = re.findall(r"^job +(\d+)$", submitted.stdout, re.M)
    assert f"waits for   {first}" in submitted.stdout and f"scancel {first} {second}" in submitted.stdout
    runs = {
        "-branches-" in str(path): [Path(member["run_dir"]) for member in json.loads(path.read_text())["members"]]
        for path in tmp_path.glob(".sweeps/*/job.json")
    }
    (runs[False][0] / "thesis.txt").write_text("in the way")
    for job in (first, second):
        states = [cluster.wait_for(f"{job}_{member}", "COMPLETED", "FAILED") for member in (0, 1)]
        assert states == ["FAILED", "COMPLETED"]
    lost, branch = runs[True]
    assert summary(branch)["status"] == "finished" and not (lost / "summary.json").exists()
    [output] = tmp_path.glob(f".sweeps/*-branches-*/slurm-{second}_0.out")
    assert re.search(r"^error: resume=.*/step-\d+: expected .* a folder that is there", output.read_text(), re.M)


def test_what_the_scheduler_refuses_is_told_in_its_words(cluster, launch, tmp_path):
    template = tmp_path / "site.sbatch"
    template.write_text(
        (ROOT / "launch" / "slurm.sbatch")
        .read_text()
        .replace("##SBATCH --partition=gpu", "#SBATCH --partition=nowhere")
    )
    refused = launch(*SLURM, f"cluster.template={template}", environment=cluster.environment)
    assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1
    assert "error: sbatch refused the job: " in refused.stderr
    assert "invalid partition specified: nowhere" in refused.stderr


def test_a_run_whose_job_waits_in_the_queue_is_not_submitted_twice(cluster, launch, tmp_path):
    template = tmp_path / "site.sbatch"
    template.write_text(
        (ROOT / "launch" / "slurm.sbatch").read_text().replace("##SBATCH --partition=gpu", "#SBATCH --hold")
    )
    submitted = launch("name=run", *SLURM, f"cluster.template={template}", environment=cluster.environment)
    number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
    assert re.search(rf"^run +queued .* {number}$", status(tmp_path), re.M)
    again = launch("name=run", *SLURM, environment=cluster.environment)
    assert again.returncode == 2
    assert f"job {number} of this run is pending already: type scancel {number} first" in again.stderr
    cluster.call("scancel", number)


NODES = {
    r"/job\.json cannot be read \(No such file or directory\): runs_dir must be a folder that all nodes share": "",
    r"torch 2\.0\.1 is installed here, \S+ where the job was launched: all nodes must have the same": (
        "import importlib.metadata as known, os; version = known.version\n"
        "other = os.environ.get('SLURMD_NODENAME') == 'n2'\n"
        "known.version = lambda name: '2.0.1' if other and name == 'torch' else version(name)"
    ),
}
"""What is told, and what differs on the second node; where nothing does, whether it sees the run's folder."""


@pytest.mark.parametrize("told", NODES)
def test_a_node_that_is_not_like_the_others_ends_the_job_by_its_name(told, cluster, launch, tmp_path):
    different = NODES[told]
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(different)
    runs = tmp_path if different else cluster.folder / "private"
    submitted = launch(
        "name=run",
        *SLURM,
        f"runs_dir={runs}",
        environment=cluster.environment | {"PYTHONPATH": f"{tmp_path}/python:{ROOT}"},
    )
    assert submitted.returncode == 0, submitted.stderr
    number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
    assert cluster.wait_for(number, "FAILED", "COMPLETED") == "FAILED"
    output = (runs / "run" / "logs" / f"slurm-{number}.out").read_text()
    assert " Restarts=0 " in cluster.call("scontrol", "show", "job", number)
    assert re.search(f"^error: host n2: .*{told}$", output, re.M) and "Traceback" not in output
    assert not different or re.search(r"^run +failed ", status(runs), re.M)


def test_a_port_in_use_is_told_with_the_node_and_the_job_is_not_queued_again(cluster, launch, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        submitted = launch(
            "name=run", *SLURM, f"cluster.port={taken.getsockname()[1]}", environment=cluster.environment
        )
        number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
        assert cluster.wait_for(number, "FAILED", "COMPLETED") == "FAILED"
    assert re.search(
        r"^error: host n1: cluster.port=\d+: Address already in use: type cluster.port=",
        (tmp_path / "run" / "logs" / f"slurm-{number}.out").read_text(),
        re.M,
    )


@pytest.mark.ranks
def test_a_crashed_job_is_queued_again_by_itself_on_another_node_and_completes(cluster, launch, tmp_path):
    environment = cluster.environment | crashing(tmp_path, 0, [8]) | {"SLURM_CONF": cluster.environment["SLURM_CONF"]}
    submitted = launch(
        "name=run", *SLURM, "cluster.nodes=1", "cluster.max_restarts=1", "training.steps=12", environment=environment
    )
    assert submitted.returncode == 0, submitted.stderr
    number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
    ended = cluster.wait_for(number, "COMPLETED", "FAILED")
    output = (tmp_path / "run" / "logs" / f"slurm-{number}.out").read_text()
    assert ended == "COMPLETED", output
    assert "was killed by SIGKILL: started again from step 5, restart 1 of 1" in output
    first, second = (start["job"]["SLURM_JOB_NODELIST"] for start in starts(tmp_path / "run"))
    assert {first, second} == {"n1", "n2"} and f"=== without {first}: " in output


def test_gpus_are_requested_and_granted_and_a_node_on_which_no_rank_finds_one_ends_the_job_by_its_name(
    cluster, launch, tmp_path
):
    job = ("name=run", "cluster=slurm", "cluster.nodes=1", "cluster.devices_per_node=2", "cluster.device=h100-80gb")
    submitted = launch(*job, environment=cluster.environment)
    assert submitted.returncode == 0, submitted.stderr
    number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
    assert cluster.wait_for(number, "FAILED", "COMPLETED") == "FAILED"
    shown = cluster.call("scontrol", "show", "job", number)
    assert "TresPerNode=gres:gpu:2" in shown and " Restarts=0 " in shown and " ExitCode=78:0" in shown, shown
    output = (tmp_path / "run" / "logs" / f"slurm-{number}.out").read_text()
    saw = r"torch\.cuda\.device_count\(\) is 0, CUDA_VISIBLE_DEVICES=0,1"
    assert re.search(rf"error: host n[12]: the job is for GPUs, and rank [01] of the node has no .*: {saw}", output)
    assert "Traceback" not in output and not (tmp_path / "run" / "config.yaml").exists()
