"""What is left to read when a rank stands still, and which rank is slow."""

import os
import re
import subprocess
import sys
from pickle import dumps
from types import SimpleNamespace

import torch
from torch.distributed.flight_recorder.components.loader import read_dir

from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.processes.watchdog import Watchdog
from tests.conftest import ROOT


def test_a_rank_that_is_slow_under_zero_3_is_found_and_the_stacks_of_one_that_stands_still_and_of_who_waits_are_written(
    tmp_path,
):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        [sys.executable, *launcher, "tests/training/slow_ranks.py", tmp_path],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = r"rank 0: error: no step ended for 1 s \(guard.hang_seconds\); step 0 was the last"
    assert done.returncode == 1 and re.search(told, done.stderr), done.stderr
    waits, stands = ((tmp_path / f"stacks-rank-0000{rank}.txt").read_text() for rank in (0, 1))
    assert "in all_reduce" in waits and "in sum" in waits and "in standing_still" not in waits
    assert "in standing_still" in stands and "in all_reduce" not in stands


def test_torchs_own_reader_finds_the_flight_recorders_last_words_among_the_logs(tmp_path, monkeypatch):
    trace = dumps({"entries": [], "version": "2.10", "pg_config": {}})
    monkeypatch.setattr(torch._C._distributed_c10d, "_dump_nccl_trace", lambda: trace, raising=False)
    for rank in (0, 13):
        Watchdog(Ranks(rank, 14, torch.device("cpu"), None), 60, tmp_path)._dump_nccl()
        (tmp_path / f"rank-{rank:05}.log").write_text("words")
        (tmp_path / f"stacks-rank-{rank:05}.txt").write_text("stacks")
    found, _ = read_dir(SimpleNamespace(prefix="nccl-rank-", trace_dir=str(tmp_path)))
    assert sorted(one["rank"] for one in found.values()) == [0, 13]
