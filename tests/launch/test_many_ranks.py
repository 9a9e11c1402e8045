"""Eight and sixteen ranks of the 280k model on this machine: start, save, a kill, a hang, other numbers of ranks."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.kills import curve as whole_curve
from benchmarks.kills import ranks_of
from tests.conftest import ROOT
from tests.end_to_end.conftest import SHORT
from tests.launch.conftest import curve

pytestmark = pytest.mark.ranks

TYPED = (
    "model=280k",
    "model.hidden_size=64",  # all that SMALL says otherwise, as model=280k has it
    "model.num_hidden_layers=3",
    "model.intermediate_size=176",
    "model.num_attention_heads=8",
    "model.head_dim=8",
    "training.batch_size=80",  # which 8, 5, 16 and 2 divide
    "training.steps=20",
    "training.eval_every=10",
    "training.eval_sequences=16",
    "checkpoint.every_steps=3",
    "checkpoint.keep_last=10",
    "sample.max_new_tokens=0",
    "zero=2",
)
TOLERANCE = 1e-4
"""Of losses at other numbers of ranks: docs/reliability.md."""
STANDS = """
import os
if os.environ.get("RANK") == "1":
    import signal, time, mfa_train.training.steps.step as step
    from pathlib import Path
    take, folder = step.TrainingStep.take, Path("{folder}")
    def once(name):
        there = (folder / name).exists()
        (folder / name).touch()
        return not there
    def standing(self):
        if self.state.progress.step == 5 and once("stopped"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.state.progress.step == 11 and once("reading"):
            self.batches.of = lambda begin: time.sleep(600)
        return take(self)
    step.TrainingStep.take = standing
"""


def on(ranks: int) -> str:
    return f"cluster.devices_per_node={ranks}"


def close(ours: list[tuple], theirs: list[tuple]) -> bool:
    """The same steps, tokens and rates, and losses that are near."""
    return [record[:2] for record in ours] == [record[:2] for record in theirs] and all(
        mine == pytest.approx(other, rel=TOLERANCE)
        for record, reference in zip(ours, theirs)
        for mine, other in zip(record[2:], reference[2:])
        if mine is not None or other is not None  # held-out losses, where evaluated
    )


@pytest.fixture
def trained(launch, tmp_path):
    """`trained(*overrides, python=None)`: a launch that went well, with `python` run as each rank starts."""

    def run(*overrides: str, python: str | None = None) -> subprocess.CompletedProcess:
        environment = None
        if python:
            (tmp_path / "python").mkdir(exist_ok=True)
            (tmp_path / "python" / "sitecustomize.py").write_text(python)
            environment = os.environ | {"PYTHONPATH": f"{tmp_path}/python:{ROOT}"}
        done = launch(*TYPED, *overrides, environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


def test_eight_ranks_killed_restarted_and_moved_to_five_and_sixteen_moved_to_two_follow_one_ranks_curve(
    launch, trained, prepared_data, tmp_path
):
    trained("name=one", on(1))
    reference = curve(tmp_path / "one")
    trained("name=eight", on(8))
    assert close(curve(tmp_path / "eight"), reference)

    process = launch.start(*TYPED, "name=killed", on(8), "cluster.max_restarts=1")
    while not (tmp_path / "killed" / "checkpoints" / "step-00000006").is_dir():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(ranks_of(process, 8)[5], signal.SIGKILL)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    [told] = re.findall("^=== .*started again.*$", output, re.M)
    assert re.match(r"=== rank 5 on \S+ was killed by SIGKILL: started again from step [0-9]+, restart 1 of 1", told)
    assert whole_curve(tmp_path / "killed") == whole_curve(tmp_path / "eight")  # the same bits

    def moved(to: str, of: str, step: int, ranks: int) -> None:
        checkpoint = tmp_path / of / "checkpoints" / f"step-{step:08}"
        done = trained(f"name={to}", on(ranks), f"resume={checkpoint}")
        assert f"goes on from {checkpoint}, after step {step}" in done.stdout
        assert re.search(f"changed since: processes: [0-9]+ -> {ranks}", done.stdout)
        assert close(curve(tmp_path / to), reference)

    moved("five", "eight", 6, 5)
    # More than eight ranks of two cores a launch refuses.
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=16", "train.py")
    folders = (f"data_dir={prepared_data}", f"runs_dir={tmp_path}")
    done = subprocess.run(
        [sys.executable, *torchrun, *SHORT, *TYPED, "optimizer.lr=1e-3", *folders, "name=sixteen"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert close(curve(tmp_path / "sixteen"), reference)
    assert len(list((tmp_path / "sixteen" / "checkpoints" / "step-00000006").glob("rank-*"))) == 16
    moved("two", "sixteen", 3, 2)


def test_a_rank_that_stands_still_is_started_again_and_leaves_the_undisturbed_curve(trained, tmp_path):
    """Stopped by SIGSTOP first, then in a read of data that never ends."""
    hangs = ("cluster.max_restarts=2", "guard.hang_seconds=20")
    done = trained("name=hung", on(2), *hangs, python=STANDS.format(folder=tmp_path))
    first, second = re.findall("^=== .*started again.*$", done.stdout, re.M)
    assert first.endswith("started again from step 3, restart 1 of 2")
    assert second.endswith("started again from step 9, restart 2 of 2")
    assert (done.stdout + done.stderr).count("no step ended for 20 s (guard.hang_seconds)") >= 2
    waits, reads = ((tmp_path / "hung" / "logs" / f"stacks-rank-0000{rank}.txt").read_text() for rank in (0, 1))
    assert waits.count("in all_reduce") >= 2 and "in <lambda>" in reads
    trained("name=undisturbed", on(2))
    assert whole_curve(tmp_path / "hung") == whole_curve(tmp_path / "undisturbed")
