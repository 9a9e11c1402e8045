"""Jobs on a real SLURM cluster of two nodes, both on this machine."""

import json
import re
import socket
import subprocess
import sys
import time

import pytest
import yaml

from tests.conftest import ROOT
from tests.end_to_end.conftest import metrics
from tests.launch.conftest import STRANGE, curve, quoted, summary
from tests.launch.slurm_cluster import Cluster, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")
SLURM = ("cluster=slurm", "cluster.nodes=2", "cluster.devices_per_node=1", "cluster.device=cpu")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.close()


def status(folder) -> str:
    return subprocess.run([sys.executable, "-m", "mfa_train.cli", "status", str(folder)], cwd=ROOT, capture_output=True,
                          text=True, check=True).stdout


def test_a_terminated_job_on_two_nodes_is_queued_again_and_leaves_the_undisturbed_curve(cluster, launch, tmp_path):
    """And a config value, the run's name too, gets there as it was typed and executes nothing."""
    name = "it's $(touch pwned); 100%n"
    steps = ("training.steps=120", "training.eval_every=60", "checkpoint.every_steps=1000")
    job = (f"name={quoted(name)}", f"sample.prompt={quoted(STRANGE)}", *steps, *SLURM)
    submitted = launch(*job, environment=cluster.environment)
    assert submitted.returncode == 0, submitted.stderr
    number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
    run = tmp_path / name
    assert f"run folder  {run}" in submitted.stdout and f"scancel {number}" in submitted.stdout
    while not (run / "metrics.jsonl").is_file() or len(metrics(run)) < 8:
        assert cluster.state(number) in ("PENDING", "RUNNING"), (run / "logs" / f"slurm-{number}.out").read_text()
        time.sleep(0.1)
    cluster.call("scancel", "--signal=TERM", number)
    undisturbed = launch("name=undisturbed", *steps, "cluster.devices_per_node=2")
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert cluster.wait_for(number, "COMPLETED", "FAILED", "TIMEOUT") == "COMPLETED"
    starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert [start["job"]["SLURM_JOB_ID"] for start in starts] == [number, number]
    assert starts[1]["from_step"] >= 8 and starts[1]["job"]["SLURM_RESTART_COUNT"] == "1"
    assert curve(run) == curve(tmp_path / "undisturbed")
    assert sorted(path.name for path in (run / "logs").iterdir()) == [
        "rank-00000.log", "rank-00001.log", f"slurm-{number}.out"]
    assert yaml.safe_load((run / "config.yaml").read_text())["sample"]["prompt"] == STRANGE
    assert not list(ROOT.glob("*pwned*")) and not list(tmp_path.rglob("pwned"))


def test_a_sweep_is_a_job_array_whose_failed_member_alone_is_submitted_again(cluster, launch, tmp_path):
    sweep = ("-m", "attention=mha,gqa,mfa", "training.steps=10", "cluster.nodes=1", *SLURM[:1], *SLURM[2:])
    submitted = launch(*sweep, environment=cluster.environment)
    assert submitted.returncode == 0, submitted.stderr
    number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
    (tmp_path / "gqa-nano" / "thesis.txt").write_text("in the way")
    states = [cluster.wait_for(f"{number}_{member}", "COMPLETED", "FAILED") for member in range(3)]
    assert states == ["COMPLETED", "FAILED", "COMPLETED"]
    output = tmp_path / ".sweeps" / "nano-attention" / f"slurm-{number}_1.out"
    assert "holds files that are no run" in output.read_text()
    assert {summary(tmp_path / f"{attention}-nano")["attention"] for attention in ("mha", "mfa")} == {"mha", "mfa"}
    shown = status(tmp_path)
    assert re.search(rf"mha-nano +finished +10/10 .* {number}_0$", shown, re.M) and "gqa-nano  queued" in shown
    assert yaml.safe_load((tmp_path / "mha-nano" / "config.yaml").read_text())["tracking"]["group"] == "nano-attention"

    (tmp_path / "gqa-nano" / "thesis.txt").unlink()
    again = launch(*sweep, environment=cluster.environment)
    assert again.stdout.count("finished before") == 2
    number = re.search(r"^job +(\d+)$", again.stdout, re.M)[1]
    assert cluster.wait_for(f"{number}_0", "RUNNING") and not cluster.state(f"{number}_1")
    cluster.call("scancel", number)


def test_a_ladder_is_two_job_arrays_and_its_branches_wait_for_the_runs_they_branch_off(cluster, prepared_data, tmp_path):
    words = ["-m", "sweep=ladder", "model=280k", "attention=mha", "seed=1", "sweep.ladder.tokens_per_parameter=[0.004,0.008]",
             "sweep.ladder.batch_size=size", "sweep.ladder.learning_rate=size", "schedule.warmup_steps=2",
             "training.sequence_length=32", "training.eval_sequences=4", "sample.max_new_tokens=0", "precision=fp32",
             "tracking.wandb=disabled", f"data_dir={prepared_data}", f"runs_dir={tmp_path}", *SLURM]
    done = subprocess.run([sys.executable, "-m", "mfa_train.cli", "launch", *words], cwd=ROOT, capture_output=True, text=True,
                          env=cluster.environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    runs, branches = re.findall(r"^job +(\d+)$", done.stdout, re.M)
    assert f"Dependency=afterany:{runs}" in cluster.call("scontrol", "show", "job", branches)
    assert cluster.wait_for(f"{branches}_0", "COMPLETED", "FAILED") == "COMPLETED", done.stdout + done.stderr
    assert [summary(run.parent)["status"] for run in sorted(tmp_path.glob("*/summary.json"))] == ["finished"] * 2


def test_what_the_scheduler_refuses_is_told_in_its_words(cluster, launch, tmp_path):
    template = tmp_path / "site.sbatch"
    template.write_text((ROOT / "launch" / "slurm.sbatch").read_text().replace(
        "##SBATCH --partition=gpu", "#SBATCH --partition=nowhere"))
    refused = launch(*SLURM, f"cluster.template={template}", environment=cluster.environment)
    assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1
    assert "error: sbatch refused the job: " in refused.stderr
    assert "invalid partition specified: nowhere" in refused.stderr


def test_a_run_whose_job_waits_in_the_queue_is_not_submitted_twice(cluster, launch, tmp_path):
    template = tmp_path / "site.sbatch"
    template.write_text((ROOT / "launch" / "slurm.sbatch").read_text().replace("##SBATCH --partition=gpu", "#SBATCH "
                                                                                                           "--hold"))
    submitted = launch("name=run", *SLURM, f"cluster.template={template}", environment=cluster.environment)
    number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
    assert re.search(rf"^run +queued .* {number}$", status(tmp_path), re.M)
    again = launch("name=run", *SLURM, environment=cluster.environment)
    assert again.returncode == 2
    assert f"job {number} of this run is pending already: type scancel {number} first" in again.stderr
    cluster.call("scancel", number)


def test_a_port_in_use_is_told_with_the_node_and_the_job_is_not_queued_again(cluster, launch, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        submitted = launch("name=run", *SLURM, f"cluster.port={taken.getsockname()[1]}",
                           environment=cluster.environment)
        number = re.search(r"^job +(\d+)$", submitted.stdout, re.M)[1]
        assert cluster.wait_for(number, "FAILED", "COMPLETED") == "FAILED"
    assert re.search(r"^error: host n1: cluster.port=\d+: Address already in use: type cluster.port=",
                     (tmp_path / "run" / "logs" / f"slurm-{number}.out").read_text(), re.M)
