"""A run that is killed, stopped, moved or starved goes on as if nothing had happened. Real processes, real signals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from benchmarks.kills import curve, ranks_of, study
from mfa_train.checkpoints.manifest import manifest_of
from mfa_train.checkpoints.object_storage import StoredRun, is_whole
from tests.conftest import ROOT
from tests.end_to_end.conftest import COMMON, STEPS, metrics


@pytest.fixture(scope="module")
def studied(prepared_data, tmp_path_factory) -> tuple[Path, dict]:
    """A folder with the run `undisturbed`, and `killed`, which was twice ended by SIGKILL; and what came of it."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, study(2, 2, folder, [*COMMON, "training.ema=0.99", f"data_dir={prepared_data}"], seed=3)


def test_a_run_killed_twice_leaves_the_undisturbed_curve_bit_for_bit(studied):
    _, result = studied
    assert result == result | {"kills": 2, "each_step_once": True, "equal": True}


@pytest.mark.ranks
def test_a_run_killed_amid_uploads_goes_on_elsewhere_from_object_storage_bit_for_bit(
    studied, begin, tmp_path, monkeypatch
):
    """2 processes; storage fails and cuts connections. Both are killed with an upload on its way, and of their folder
    nothing stays; the same command, in another one."""
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    from tests.data.object_storage import ObjectStorage

    storage = ObjectStorage()
    for key, value in (storage.environment() | {"AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(key, value)
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    filesystem.mkdir("s3://saved")
    # The first checkpoint gets there after a while, and then all takes long.
    storage.faults_of_puts[:] = [None] * 8 + ["500"] * 6 + ["reset", None, None, None] + ["slow"] * 60
    upload, stored = "checkpoint.upload=s3://saved/runs", StoredRun("s3://saved/runs", "run")
    first = begin(upload, "training.ema=0.99", processes=2)
    deadline = time.monotonic() + 100
    while not any(name.endswith("manifest.json") for name in storage.puts) or "rank-" not in storage.puts[-1]:
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()
        time.sleep(0.005)
    for process in [*ranks_of(first, 2), first.pid]:
        os.kill(process, signal.SIGKILL)
    output, _ = first.communicate(timeout=60)
    assert output.count("warning: an upload to s3://saved/runs/run failed") >= 1
    whole = {step: files for step, files in stored.checkpoints().items() if is_whole(files)}
    for step, files in whole.items():
        stored.get(f"checkpoints/step-{step:08d}/manifest.json", tmp_path / "manifest.json")
        entries = manifest_of(tmp_path)["files"]
        assert len(entries) == 2 and len(files) == 3
        for entry in entries:
            assert stored.get(f"checkpoints/step-{step:08d}/{entry['name']}", tmp_path / "file") == entry["sha256"]
    shutil.rmtree(tmp_path / "run")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    storage.faults_of_puts[:] = [None] * 4 + ["500"] * 6 + [None, "403", None, "reset"]
    second = subprocess.run(
        [f"runs_dir={elsewhere}" if word.startswith("runs_dir=") else word for word in first.args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    output, errors = second.stdout, second.stderr
    assert second.returncode == 0, errors
    assert f"fetches step-{max(whole):08d}" in output and f"after step {max(whole)}\n" in output
    assert curve(elsewhere / "run") == curve(studied[0] / "undisturbed")
    assert max(stored.checkpoints()) == STEPS and len(stored.checkpoints()) == 2
    everything = {name: stored.read(name) for name in stored.sizes()}
    last = elsewhere / "run" / "checkpoints" / f"step-{STEPS:08d}"
    for name, content in everything.items():
        if "step-" not in name or last.name in name:
            assert content == (elsewhere / "run" / name).read_bytes()
    # Two checkpoints, final weights and their average, the tokenizer, the run's own files.
    assert len(everything) == 2 * 3 + 2 * 4 + 2 + 5
    assert "very-secret" not in output + errors and not any(b"very-secret" in each for each in everything.values())
    storage.close()


def test_the_average_of_the_weights_is_the_same_bits_after_kills_and_has_a_loss_of_its_own(studied):
    folder, _ = studied
    ours, theirs = (
        folder / name / "checkpoints" / "final-ema" / "model.safetensors" for name in ("killed", "undisturbed")
    )
    assert ours.read_bytes() == theirs.read_bytes() != (ours.parents[1] / "final" / ours.name).read_bytes()
    last, summary = curve(folder / "killed")[-1], json.loads((folder / "killed" / "summary.json").read_text())
    assert summary["val_ema_loss"] == last["val_ema/loss"] != last["val/loss"] == summary["val_loss"]


def test_a_run_stopped_by_signals_moves_over_ranks_and_stages_on_the_same_curve(studied, begin, tmp_path):
    """2 processes at ZeRO 2, stopped by a signal to one of them; 1 at ZeRO 3, stopped; 2 at ZeRO 1 to the end."""
    first = begin(processes=2)
    os.kill(ranks_of(first, 2)[1], signal.SIGUSR1)
    output, errors = first.communicate(timeout=120)
    stopped = int(re.search(r"stopped: .* after step (\d+); saved in", errors)[1])
    assert first.returncode != 0 and "SIGUSR1: finishing the step" in errors
    assert errors.count("stopped: ") == 1 and (tmp_path / "run" / "checkpoints" / f"step-{stopped:08d}").is_dir()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "stopped"

    second = begin("zero=3")
    second.send_signal(signal.SIGTERM)
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 75, errors
    assert f"after step {stopped}" in output and "changed since: processes: 2 -> 1" in output
    assert "changed since: zero: 2 -> 3" in output

    moved = int(re.search(r"stopped: SIGTERM after step (\d+); saved in", errors)[1])
    third = begin("zero=1", processes=2)
    output, errors = third.communicate(timeout=120)
    assert third.returncode == 0, errors
    ours, theirs = metrics(tmp_path / "run"), metrics(studied[0] / "undisturbed")
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    for a, b in zip(ours, theirs):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-4)
    starts = [json.loads(line) for line in (tmp_path / "run" / "starts.jsonl").read_text().splitlines()]
    assert [(start["world_size"], start["from_step"]) for start in starts] == [(2, 0), (1, stopped), (2, moved)]
    assert 0 < stopped < moved < STEPS


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(studied, begin):
    folder, _ = studied
    before = curve(folder / "undisturbed")
    process = begin(f"training.steps={STEPS + 5}", runs_dir=folder, name="undisturbed")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"changed since: training.steps: {STEPS} -> {STEPS + 5}" in output
    assert "changed since: training.ema: 0.99 -> None" in output
    assert "training.ema=null: the average of the weights that the checkpoint holds is kept no longer" in output
    assert not (folder / "undisturbed" / "checkpoints" / "final-ema").exists()
    after = curve(folder / "undisturbed")
    assert after[: len(before)] == before and after[-1]["step"] == STEPS + 5


def test_ctrl_c_saves_one_job_works_in_a_folder_and_wandb_stays_one_run(begin, train, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    process = begin("training.steps=100000", "tracking.wandb=offline", processes=1)
    beside = train("name=run", "training.steps=100000")
    assert beside.returncode == 2 and 'another process works in this run folder ({"host": ' in beside.stderr
    process.send_signal(signal.SIGINT)
    _output, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "Traceback" not in errors
    stopped = int(re.search(r"stopped: SIGINT after step (\d+); saved", errors)[1])

    # As a kill leaves it: records and W&B are ahead of the newest checkpoint, and a line is torn.
    run = tmp_path / "run"
    os.rename(run / "checkpoints" / f"step-{stopped:08d}", run / "gone")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99')
    done = subprocess.run(
        [arg if not arg.startswith("training.steps") else f"training.steps={stopped + 7}" for arg in process.args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    steps = [record["step"] for record in metrics(run)]
    assert steps == sorted(set(steps)) and steps[-1] == stopped + 7

    history, ids, configs = [], set(), []
    for folder in sorted((run / "wandb").glob("offline-run-*")):
        read = subprocess.run(
            [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", folder],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for record in map(json.loads, read.splitlines()):
            if record["type"] == "run":
                ids.add(record["run"]["run_id"])
                configs.append(record["run"]["config"]["update"])
            elif record["type"] == "history":
                history.append(record["history"]["item"]["step"])
    assert history == steps and len(ids) == 1
    assert configs[-1]["starts"][-1]["job"]["SLURM_JOB_ID"] == "4711"
    starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert {start["wandb"]["id"] for start in starts} == ids and starts[0]["job"]["SLURM_JOB_ID"] == "4711"


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(begin, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        # A checkpoint takes 7.2 MB here, so two do not fit, and the final weights no longer beside one.
        process = begin("checkpoint.keep_last=2", "training.steps=30", runs_dir=disk)
        output, _errors = process.communicate(timeout=120)
        assert "warning: the checkpoint of step 20 could not be written" in output
        assert "step-00000010 stays the newest" in output
        assert metrics(disk / "run")[-1]["step"] == 30
        whole = [path.name for path in (disk / "run" / "checkpoints").iterdir()]
        assert "step-00000010" in whole and not any("partial" in name for name in whole)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_rank_that_hangs_ends_the_job_and_the_others_say_where_they_stand(begin, tmp_path):
    process = begin("training.steps=100000", "guard.hang_seconds=6", processes=2)
    first, second = ranks_of(process, 2)
    os.kill(second, signal.SIGSTOP)
    at = time.monotonic()
    while first in ranks_of(process, 2) and Path(f"/proc/{first}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() - at < 30
        time.sleep(0.1)
    os.kill(second, signal.SIGKILL)  # torchrun would, half a minute later
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert re.search(
        r"rank 0: error: no step ended for 6 s \(guard.hang_seconds\); step \d+ was the last. rank 1 was "
        r"last heard of \d+ s ago, after step \d+. Where this rank stands:",
        errors,
    ), errors
    assert "loop.py" in errors
    # The one that was stopped could not write its own.
    assert "loop.py" in (tmp_path / "run" / "logs" / "stacks-rank-00000.txt").read_text()


@pytest.mark.parametrize("output", ["a reader that has gone", "closed from the start"])
def test_output_that_nobody_reads_stops_no_run(output, prepared_data, tmp_path):
    folders = (f"data_dir={prepared_data}", f"runs_dir={tmp_path}")
    command = [sys.executable, "train.py", *COMMON, "training.steps=12", *folders, "name=run"]
    options = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}}
    if output == "a reader that has gone":
        reader, writer = os.pipe()
        process = subprocess.Popen(command, stdout=writer, stderr=writer, **options)
        os.close(reader)
        os.close(writer)
    else:
        process = subprocess.Popen(["bash", "-c", 'exec "$0" "$@" >&- 2>&-', *command], **options)
    try:
        process.wait(timeout=120)
    finally:
        process.kill()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
