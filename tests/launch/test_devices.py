"""What ranks train on is one decision."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from unittest.mock import Mock

import pytest
import torch.distributed as dist

from mfa_train import config as configs
from mfa_train.doors import trainer
from mfa_train.errors import ConfigError, NoDevice
from mfa_train.launch import rank
from mfa_train.launch.job import make_job, read_job
from mfa_train.launch.restart import FINAL
from mfa_train.training.processes import device_kind
from mfa_train.training.processes.device_kind import prepare_environment, require_device, require_one_kind


def verdicts(kinds: list[str]) -> list[str]:
    """What each rank says, of `kinds` that meet in one store; "" where it goes on."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=20), wait_for_workers=False)

    def of(number: int) -> str:
        mine = server if number == 0 else dist.TCPStore("127.0.0.1", server.port, timeout=timedelta(seconds=20))
        try:
            require_one_kind(mine, number, len(kinds), kinds[number])
            return ""
        except ConfigError as error:
            return str(error)

    with ThreadPoolExecutor(len(kinds)) as threads:
        return list(threads.map(of, range(len(kinds))))


def test_ranks_with_and_without_a_gpu_all_fail_before_they_join_and_name_the_hosts_without(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert verdicts(["cpu"] * 4) == verdicts(["cuda"] * 4) == [""] * 4
    [told] = set(verdicts(["cuda", "cpu", "cuda", "cuda"]))
    assert told.startswith("1 of 4 ranks have no CUDA device, the others have one: host n7 (torch.cuda.device_count() ")
    [told] = set(verdicts(["cpu"] * 10 + ["cuda"]))
    assert told.startswith("10 of 11 ranks") and told.count("host n7") == 1


def test_a_rank_that_should_have_a_gpu_says_which_node_has_none_and_what_it_saw(monkeypatch):
    monkeypatch.setattr(device_kind.socket, "gethostname", lambda: "n3")
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    require_device(1)
    with pytest.raises(
        ConfigError, match=r"^host n3: .*rank 2 .*device_count\(\) is 2, CUDA_VISIBLE_DEVICES=0,1: "
    ) as here:
        require_device(2)
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    with pytest.raises(NoDevice, match="^host n3: ") as of_slurm:
        require_device(2)
    assert (here.value.exit_status, of_slurm.value.exit_status) == (2, 69) and 69 not in FINAL


def test_a_job_for_cpus_hides_gpus_and_whoever_trains_leaves_an_allocator_that_was_chosen(monkeypatch):
    for name in device_kind.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    for name in device_kind.VISIBLE:
        monkeypatch.setenv(name, "0")
    trainer()  # as train.py, torchrun's ranks and launched ones open it
    assert device_kind.os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    trainer()
    assert "PYTORCH_ALLOC_CONF" not in device_kind.os.environ
    prepare_environment("cuda")
    assert device_kind.os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    prepare_environment("cpu")
    assert {device_kind.os.environ[name] for name in device_kind.VISIBLE} == {""}


def test_a_launched_rank_has_chosen_its_allocator_before_torch_is_imported_to_look_for_its_gpu(tmp_path, monkeypatch):
    for name in (*device_kind.ALLOCATOR, "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # and as it was, in the end
    for name in device_kind.ALLOCATOR:
        monkeypatch.delenv(name)
    seen = []

    def look(local_rank: int) -> None:
        seen.append(device_kind.os.environ.get("PYTORCH_ALLOC_CONF"))
        raise ConfigError("there is none")

    monkeypatch.setattr(rank, "require_device", look)
    monkeypatch.setattr(rank, "RankOutput", Mock())
    [member] = configs.members([f"runs_dir={tmp_path}", "cluster=slurm", "cluster.device=h100-80gb"])
    assert rank.work(make_job([member], tmp_path), 0, "0") == ConfigError.exit_status
    assert seen == ["expandable_segments:True"]


@pytest.mark.parametrize("device, kind", {"h100-80gb": "cuda", "mi300x-192gb": "cuda", "cpu": "cpu"}.items())
def test_a_job_holds_what_its_ranks_train_on_and_one_from_before_it_did_is_read(device, kind, tmp_path):
    job = make_job(configs.members([f"runs_dir={tmp_path}", "cluster=slurm", f"cluster.device={device}"]), tmp_path)
    job.write()
    assert read_job(job.word).device == kind
    [file] = tmp_path.glob("*/launch/job.json")
    content = json.loads(file.read_text())
    del content["device"]
    file.write_text(json.dumps(content))
    assert read_job(job.word).device is None
    file.write_text(json.dumps(content | {"device": "tpu"}))
    with pytest.raises(ConfigError, match="its device is neither cuda nor cpu"):
        read_job(job.word)
