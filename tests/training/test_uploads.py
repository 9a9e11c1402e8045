"""Checkpoints in object storage: what is there when, whatever goes wrong on the way. A real S3 server, on loopback."""

import dataclasses
import json
import shutil
import threading
import time

import fsspec
import pytest
import torch
import torch.distributed as dist

from mfa_train import config as configs
from mfa_train.checkpoints import object_storage as storage
from mfa_train.checkpoints.folders import folder_of, newest_first, verified
from mfa_train.checkpoints.object_storage import StoredRun, require_known
from mfa_train.errors import ConfigError, DataError
from mfa_train.tracking.metrics_file import MetricsFile
from mfa_train.training.before_start import checks_before_plan
from mfa_train.training.processes.ranks import Ranks, join
from mfa_train.training.resuming.agreement import find_verified
from mfa_train.training.resuming.from_storage import fetch_again, fetch_what_is_newer, open_storage
from mfa_train.training.run_folder.folder import RunFolder
from mfa_train.training.saving import uploads as uploading
from mfa_train.training.saving.uploads import Uploads
from tests.conftest import SMALL
from tests.training.checkpoints import DATA, flipped, save

KEEP = ["checkpoint.keep_last=2", "checkpoint.at_steps=[3]"]


@pytest.fixture
def bucket(object_storage, monkeypatch):
    """Its URL; faults come soon after each other, and nobody but the uploads asks for anything again."""
    for key, value in (object_storage.environment() | {"AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(storage, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(uploading, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(uploading, "POLL_SECONDS", 0.01)
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    if not filesystem.exists("s3://saved"):
        filesystem.mkdir("s3://saved")
    object_storage.puts.clear()
    yield f"s3://saved/{time.monotonic_ns()}"
    object_storage.faults_of_puts.clear()


@pytest.fixture
def run(tmp_path):
    """`run(step)` saves a checkpoint of a run of 3 ranks, with records up to there; `run.folder` is its folder."""
    config = configs.load([*SMALL, *KEEP, "name=run", f"runs_dir={tmp_path}"])
    folder = config.run_dir
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(configs.to_yaml(config))

    def saved(step: int):
        metrics = MetricsFile(folder / "metrics.jsonl", 10**6)
        metrics.log({"step": step, "train/loss": 1.0 / step})
        metrics.close()
        return save(folder / "checkpoints", step, cuts=(0, 2, 4, 10), config=config)

    saved.folder, saved.config = folder, config
    return saved


def of(config: configs.Config, url: str) -> configs.Config:
    return dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, upload=url))


def begun(run, stored: StoredRun, world_size: int = 1) -> list[Uploads]:
    """The uploads of every rank, which tell each other through one store."""
    store = dist.HashStore()
    everyones = [Ranks(rank, world_size, torch.device("cpu"), store) for rank in range(world_size)]
    return [Uploads(stored, run.config.checkpoint, run.folder, ranks, "0") for ranks in everyones]


def finished(everyones: list[Uploads], seconds: float = 20.0) -> None:
    """As the ranks end together."""
    threads = [threading.Thread(target=uploads.finish, args=(seconds,)) for uploads in everyones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def one_by_one(run, stored: StoredRun, *steps: int) -> None:
    """Checkpoints after these steps, the next when the one before is there."""
    everyones = begun(run, stored)
    for step in steps:
        everyones[0].saved(run(step))
        while everyones[0].held():
            time.sleep(0.01)
    finished(everyones)


def test_files_come_first_and_the_manifest_last_and_what_is_kept_is_kept_in_step(bucket, object_storage, run, capsys):
    stored = StoredRun(bucket, "run")
    stored.write("checkpoints/step-00000001/rank-00000.safetensors", b"of a start that was killed")
    everyones = begun(run, stored, world_size=3)
    for step in (2, 3, 4, 5):
        everyones[0].saved(run(step))
        while everyones[0].held():
            time.sleep(0.01)
        assert [folder_of(run.folder, step).name in name for name in object_storage.puts[-1:]] == [True]
        assert object_storage.puts[-1].endswith("manifest.json")
    finished(everyones)
    assert sorted(stored.checkpoints()) == [3, 4, 5]  # the two newest, and one for good
    for step, files in stored.checkpoints().items():
        for name in files:
            assert stored.read(name) == (run.folder / name).read_bytes()
        assert len(files) == 4 and step
    assert stored.read("metrics.jsonl") == (run.folder / "metrics.jsonl").read_bytes()
    assert capsys.readouterr().out == ""


def test_faults_are_told_once_and_in_the_end_all_is_there(bucket, object_storage, run, capsys):
    stored = StoredRun(bucket, "run")
    object_storage.faults_of_puts[:] = ["500", "reset", None, "403", "500", None, "500", "reset"]
    everyones = begun(run, stored, world_size=2)
    everyones[0].saved(run(2))
    finished(everyones)
    told = capsys.readouterr().out.splitlines()
    assert len([line for line in told if "an upload to" in line and "failed (" in line]) == 1, told
    assert f"uploads work again: step-00000002 is whole in {stored.url}" in told
    assert everyones[0].ranks.store.num_keys() == 1  # that no more comes; what was read has gone
    assert {name: stored.read(name) for name in stored.sizes("checkpoints")} == {
        str(path.relative_to(run.folder)): path.read_bytes()
        for path in (run.folder / "checkpoints").rglob("*")
        if path.is_file()
    }


def test_while_storage_is_down_saves_do_not_pile_up_and_the_end_is_bounded(bucket, object_storage, run, capsys):
    stored = StoredRun(bucket, "run")
    object_storage.faults_of_puts[:] = ["500"] * 10**5
    everyones = begun(run, stored)
    for step in (2, 3, 4, 5, 6):
        everyones[0].saved(run(step))
    assert len(everyones[0].held()) <= 3  # one on its way, the newest, and that of at_steps
    at = time.monotonic()
    finished(everyones, seconds=0.3)
    assert time.monotonic() - at < 3
    told = capsys.readouterr().out
    assert told.count("is not uploaded, as step-0000000") == 1
    assert "warning: not all is uploaded" in told and "the same command uploads the rest" in told
    assert stored.checkpoints() == {}

    object_storage.faults_of_puts.clear()  # the next start finds what is missing
    finished(begun(run, stored))
    assert sorted(stored.checkpoints()) == [3, 6]


def test_a_large_file_goes_in_parts_and_what_a_killed_process_left_of_one_is_forgotten(
    bucket, object_storage, tmp_path, monkeypatch
):
    monkeypatch.setattr(storage, "PART_BYTES", 5 * 2**20)
    stored, file = StoredRun(bucket, "run"), tmp_path / "file"
    file.write_bytes(bytes(range(256)) * (12 * 2**12))
    object_storage.faults_of_puts[:] = [None, "500"]
    with pytest.raises(OSError):
        stored.put(file, "file")
    assert stored.sizes() == {}
    filesystem, path = fsspec.url_to_fs(stored.url)
    location, key, _ = filesystem.split_path(path)
    filesystem.call_s3("create_multipart_upload", Bucket=location, Key=f"{key}/file")
    filesystem.call_s3("create_multipart_upload", Bucket=location, Key=f"{key}-of-another")
    stored.abort_begun()
    assert [one["Key"] for one in filesystem.list_multipart_uploads(location)] == [f"{key}-of-another"]
    stored.put(file, "file")
    stored.get("file", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_a_server_that_stands_still_is_given_up_and_asked_again(bucket, object_storage, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    stored = StoredRun(bucket, "run")
    assert stored.sizes() == {}  # it is connected
    object_storage.faults_of_puts[:] = ["slow"]
    with monkeypatch.context() as impatient, pytest.raises(TimeoutError, match="nothing went through"):
        impatient.setattr(storage, "STALL_SECONDS", 0.3)
        stored.put(tmp_path / "file", "file")
    storage.patiently(lambda: stored.put(tmp_path / "file", "file"))
    assert stored.sizes() == {"file": 1}


def test_a_fresh_machine_fetches_the_newest_whole_one_and_the_records_up_to_there(bucket, run, tmp_path, capsys):
    stored = StoredRun(bucket, "run")
    one_by_one(run, stored, 2, 3)
    metrics = (run.folder / "metrics.jsonl").read_bytes()
    name = "checkpoints/step-00000003/rank-00001.safetensors"
    content = stored.read(name)
    stored.write(name, content[:-1] + bytes([content[-1] ^ 1]))
    shutil.rmtree(run.folder)

    folder = RunFolder(of(run.config, bucket))
    assert fetch_what_is_newer(open_storage(folder.config, join()), folder, join()) is None
    told = capsys.readouterr().out
    assert "step-00000003 is damaged there: rank-00001.safetensors differs from its checksum" in told
    (checkpoint,) = newest_first(run.folder / "checkpoints")
    assert verified(checkpoint)["step"] == 2 and (run.folder / "metrics.jsonl").read_bytes() == metrics
    stored.write(name, content)
    assert fetch_what_is_newer(stored, folder, join()) is None  # further than what is here
    assert verified(newest_first(run.folder / "checkpoints")[0])["step"] == 3
    folder.lock.release()


def test_a_checkpoint_of_which_a_file_was_removed_there_is_passed_over_for_the_one_before(bucket, run, capsys):
    stored = StoredRun(bucket, "run")
    one_by_one(run, stored, 2, 3)
    stored.remove(["checkpoints/step-00000003/rank-00001.safetensors"])
    shutil.rmtree(run.folder)
    folder = RunFolder(of(run.config, bucket))
    assert fetch_what_is_newer(stored, folder, join()) is None
    assert "step-00000003 is damaged there: rank-00001.safetensors is missing" in capsys.readouterr().out
    assert [verified(path)["step"] for path in newest_first(run.folder / "checkpoints")] == [2]
    folder.lock.release()


def test_a_checkpoint_that_is_damaged_here_comes_again_from_storage_where_the_same_one_is_whole(bucket, run, capsys):
    stored = StoredRun(bucket, "run")
    one_by_one(run, stored, 2, 3)
    name = "checkpoints/step-00000003/rank-00001.safetensors"

    def found() -> int:
        flipped(run.folder / name)

        def mend(checkpoint, damage):
            return fetch_again(stored, run.folder, checkpoint, damage, join())

        return find_verified(run.config, run.folder, DATA, join(), mend=mend).step

    assert found() == 3 and verified(run.folder / "checkpoints" / "step-00000003")["step"] == 3
    assert "rank-00001.safetensors differs from its checksum; fetches it from" in capsys.readouterr().out
    stored.write(name, (run.folder / name).read_bytes()[:-1] + b"?")
    assert found() == 2 and "step-00000003 is damaged there: rank-00001" in capsys.readouterr().out
    run(3)  # not the one that is there
    manifest = stored.read("checkpoints/step-00000003/manifest.json")
    stored.write("checkpoints/step-00000003/manifest.json", manifest + b" ")
    assert found() == 2 and "fetches" not in capsys.readouterr().out


def test_what_is_to_stay_for_good_is_tried_again_though_a_newer_one_waits(bucket, run, monkeypatch):
    stored = StoredRun(bucket, "run")
    (uploads,) = begun(run, stored)
    failed, copy = [], Uploads._copy

    def failing_once(self, folder):
        if folder.name.endswith("3") and not failed:
            self.saved(run(5))  # meanwhile
            failed.append(folder)
            raise uploading._ByOthers("storage was down")
        copy(self, folder)

    monkeypatch.setattr(Uploads, "_copy", failing_once)
    uploads.saved(run(3))  # of at_steps
    while len(stored.checkpoints()) < 2 and uploads.held():
        time.sleep(0.01)
    finished([uploads])
    assert failed and sorted(stored.checkpoints()) == [3, 5]


def test_where_the_first_rank_can_upload_no_more_the_others_do_not_wait_for_it(bucket, run, monkeypatch, capsys):
    def broken(self):
        raise ImportError("no s3fs")

    monkeypatch.setattr(Uploads, "_begin", broken)
    everyones = begun(run, StoredRun(bucket, "run"), world_size=2)
    at = time.monotonic()
    finished(everyones, seconds=20)
    assert time.monotonic() - at < 10 and "nothing more is uploaded" in capsys.readouterr().out


def test_a_rank_whose_disk_fails_while_it_fetches_tells_all(bucket, run, monkeypatch):
    stored = StoredRun(bucket, "run")
    everyones = begun(run, stored)
    everyones[0].saved(run(2))
    finished(everyones)
    shutil.rmtree(run.folder)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mfa_train.training.resuming.from_storage.flush", full)
    with pytest.raises(DataError, match="has no room here") as refused:
        fetch_checkpoint(stored, run.folder / "checkpoints" / "step-00000002", join())
    assert refused.value.everywhere


def fetch_checkpoint(stored, checkpoint, ranks):
    from mfa_train.training.resuming import from_storage

    entries = from_storage._manifest(stored, checkpoint)
    return from_storage._fetch_folder(stored, checkpoint, {one["name"]: one["sha256"] for one in entries}, ranks)


def test_of_a_finished_run_the_final_weights_come_and_of_another_run_nothing(bucket, object_storage, run):
    stored = StoredRun(bucket, "run")
    run(2)
    finals = [run.folder / "checkpoints" / name for name in ("final", "final-ema")]
    for final in finals:
        final.mkdir()
        (final / "model.safetensors").write_bytes(final.name.encode())
        (final / "sha256.json").write_text(json.dumps({"format": 1}))
    summary = {"status": "finished", "tokens": 1}
    (run.folder / "summary.json").write_text(json.dumps(summary))
    finished(begun(run, stored))
    assert stored.sizes()["summary.json"] == (run.folder / "summary.json").stat().st_size
    assert "summary.json" in object_storage.puts[-1]  # finished is what is there whole
    shutil.rmtree(run.folder)

    folder = RunFolder(of(run.config, bucket))
    assert fetch_what_is_newer(stored, folder, join()) == summary
    assert all((final / "model.safetensors").read_bytes() == final.name.encode() for final in finals)
    shutil.rmtree(run.folder)
    other = RunFolder(configs.load([*SMALL, "name=run", f"runs_dir={run.folder.parent}", "seed=7"]))
    with pytest.raises(ConfigError, match=r"holds another run \(seed: 1 -> 7\); type name=… for a run beside it"):
        fetch_what_is_newer(stored, other, join())
    assert not run.folder.exists()
    with pytest.raises(ConfigError, match="resume=never: .* holds checkpoints of an older run of this name"):
        open_storage(dataclasses.replace(of(run.config, bucket), resume="never"), join())


@pytest.mark.parametrize(
    ("url", "fault", "told"),
    [
        ("s3://no-such-bucket/p", None, r"cannot be written \(no such bucket\)"),
        ("s3://saved/p", "403", r"cannot be written \(access denied: .*; credentials belong in the environment"),
    ],
)
def test_what_cannot_be_written_to_is_refused_before_the_first_step(bucket, object_storage, run, url, fault, told):
    object_storage.faults_of_puts[:] = [fault] * 10
    with pytest.raises(ConfigError, match=told) as refused:
        open_storage(of(run.config, url), join())
    assert refused.value.exit_status == 2 and "very-secret" not in str(refused.value)


def test_storage_that_is_down_at_the_start_is_no_mistake_of_the_config(bucket, object_storage, run):
    object_storage.faults_of_puts[:] = ["500"] * 100
    with pytest.raises(DataError, match="it cannot be reached .*; the same command tries again"):
        open_storage(of(run.config, bucket), join())


@pytest.mark.parametrize("url", ["bucket/prefix", "s3://", "s3:///prefix", "s3://bucket/*.x", "file:///x"])
def test_what_is_no_url_of_a_bucket_is_refused(url):
    with pytest.raises(ConfigError, match=r"checkpoint.upload=.*expected a URL, as s3://BUCKET/PREFIX"):
        configs.load([f"checkpoint.upload='{url}'"])


def test_a_protocol_that_is_not_installed_is_refused_before_anything_starts(monkeypatch):
    with pytest.raises(ConfigError, match="checkpoint.upload=weird://b/p: Protocol not known"):
        require_known("weird://b/p")

    def missing(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(ConfigError, match=r"Install s3fs to access S3; type pip install -e '\.\[s3\]'"):
        for check in checks_before_plan(configs.load([*SMALL, "checkpoint.upload=s3://b/p"])):
            check()
