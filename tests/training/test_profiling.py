"""Traces of a run's steps: what they cost where none is asked for, and what is refused."""

import json
import threading
import time
from collections import Counter
from dataclasses import asdict

import pytest
import torch
import torch.distributed as dist

from mfa_train import config as configs
from mfa_train.errors import ConfigError, UserError
from mfa_train.launch import profile as command
from mfa_train.training.processes.agreed_steps import AgreedSteps
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.run_folder import profile_request as requests
from mfa_train.training.run_folder.profile_request import Request
from mfa_train.training.steps import profiling as module
from mfa_train.training.steps.profiling import LEAD, Profiling
from mfa_train.training.steps.trace import Trace, compressed

ID = "0123456789abcdef"


class CountedStore:
    """The ranks' store, with how often it is asked."""

    def __init__(self):
        self.store, self.calls = dist.HashStore(), Counter()

    def __getattr__(self, name: str):
        self.calls[name] += 1
        return getattr(self.store, name)


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """`steps(*overrides)` gives the profiling of rank 0 of two, and a function that ends its next step."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "Trace", None)  # a profiler would be an error

    def make(*overrides: str):
        config = configs.load([f"runs_dir={tmp_path}", "name=run", "training.steps=1000", *overrides])
        config.run_dir.mkdir(exist_ok=True)
        agreed = AgreedSteps(Ranks(0, 2, torch.device("cpu"), CountedStore()))
        profiling = Profiling(config, agreed.ranks, agreed, 0)
        done = 0

        def end_step(after: int | None = None) -> None:
            nonlocal done
            done = 1 + (done if after is None else after)
            agreed.look()
            profiling.between(done)

        return profiling, end_step

    return make


def until(met, end_step=lambda: time.sleep(0.01)):
    deadline = time.monotonic() + 20
    while not met():
        end_step()
        assert time.monotonic() < deadline
    return met()


def test_where_no_trace_is_asked_for_a_step_asks_the_store_once_and_no_file(steps, monkeypatch):
    looked, read = [], requests.read
    monkeypatch.setattr(requests, "read", lambda run: looked.append(threading.current_thread()) or read(run))
    profiling, end_step = steps()
    with profiling:
        for _ in range(100):
            end_step()
        assert profiling.ranks.store.calls == {"add": 100}
        until(lambda: looked)
        assert threading.current_thread() not in looked


def test_a_rank_that_cannot_write_says_so_and_the_run_goes_on(steps, monkeypatch, capsys):
    class Full(Trace):
        def write(self, folder, rank):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "Trace", Full)
    profiling, end_step = steps("profile.step=3", "profile.steps=1")
    with profiling:
        for _ in range(5):
            end_step()
    summary = json.loads((profiling.run / "profiles" / "step-00000003" / "profile.json").read_text())
    assert summary["ranks"] == {"0": {"error": "[Errno 28] No space left on device"}}
    assert "rank 0's is missing ([Errno 28] No space left on device)" in capsys.readouterr().out


@pytest.mark.parametrize("late", [False, True])
def test_the_end_asks_for_another_ranks_part_and_leaves_the_store_to_the_watchdog_meanwhile(
    late, steps, monkeypatch, capsys
):
    class Full(Trace):
        def write(self, folder, rank):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "Trace", Full)
    monkeypatch.setattr(module, "LAST_SECONDS", 0.1 if late else 20)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    profiling, end_step = steps(
        "profile.step=3", "profile.steps=1", "profile.ranks=[0,1]", "cluster.devices_per_node=2"
    )
    with profiling:
        for _ in range(5):
            end_step()
        if not late:
            threading.Timer(0.05, profiling.ranks.store.set, ("profile/config/1", '{"error": "none"}')).start()
    assert not profiling.ranks.store.calls["wait"] and profiling.ranks.store.calls["check"] > 3
    told = capsys.readouterr().out
    assert ("not all ranks have written their profile of step 3" in told) == late
    assert ("rank 1's is missing (none)" in told) != late


@pytest.mark.parametrize("whole", [True, False])
def test_a_gpus_memory_is_watched_from_the_warm_up_to_the_last_step_and_no_longer(whole, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda enabled="all", **_: called.append(enabled))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda path: called.append(path))
    trace = Trace(7, 1, torch.device("cuda"))
    trace.begin()
    assert not trace.step()
    if whole:
        torch.zeros(3).sum()
        assert trace.step()
        raw = trace.write(tmp_path, 5)
        assert compressed(raw) == tmp_path / "rank-5.json.gz" and not raw.exists()
    else:
        trace.abandon()
    assert called == ["all", *([str(tmp_path / "rank-5-memory.pickle")] if whole else []), None]


def test_what_a_run_cannot_record_is_refused_with_what_to_type(steps):
    profiling, end_step = steps("training.steps=1e9", "profile.step=5e8", "profile.steps=10")
    run = profiling.run
    with profiling:
        for _ in range(50):
            end_step()
        for asked, why in (
            ({"step": 20}, "--step=20: the run is at step"),
            ({"ranks": [0, 2]}, "--ranks=0,2: the run has 2 ranks, 0 to 1"),
            ({"step": 5 * 10**8 + 5}, "of rank 0 are being recorded then (profile.step): type one from 500,000,011 on"),
            ({"step": 10**9 + 1}, "the run ends after step 1,000,000,000"),
        ):
            requests.ask(run, Request(ID, 3, **{"ranks": [0]} | asked))
            until(lambda: requests.read(run).refused, end_step)
            assert why in requests.read(run).refused  # and makes room for the next


def test_a_request_that_is_taken_back_makes_room_and_the_next_is_called_for(steps):
    profiling, end_step = steps("training.steps=1e9")
    run = profiling.run
    with profiling:
        requests.ask(run, Request(ID, 3, [1], step=10**8))
        until(lambda: requests.read(run).first == 10**8, end_step)
        with pytest.raises(ConfigError, match="a profile from step 100,000,000 on is asked for already"):
            requests.ask(run, Request(ID[::-1], 3, [0]))
        requests.remove(run, Request(ID, 3, [1]))
        until(lambda: profiling.request is None, end_step)
        requests.ask(run, Request(ID[::-1], 3, [1]))
        until(lambda: profiling.watch.found)
        end_step(after=10**8 - LEAD)  # the call; the next step's end is where all ranks know
        end_step()
        [window] = profiling.open
        assert (window.first, window.last, window.ranks) == (10**8 + 1, 10**8 + 3, [1])
        profiling.ranks.store.set(f"profile/{window.id}/1", '{"error": "no room"}')
    folder, summary = requests.made(run, ID[::-1])
    assert (folder.name, summary["ranks"]) == ("step-100000001", {"1": {"error": "no room"}})
    assert requests.read(run) is None


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[" * 99, b"\0\0", json.dumps(asdict(Request("../../x", 3, [0]))).encode()]
    + [json.dumps(asdict(Request(ID, 3, [0])) | odd).encode() for odd in ({"steps": 0}, {"ranks": "0"}, {"x": 1})],
)
def test_what_is_no_request_is_told_to_who_asks_and_passed_over_by_the_run(content, tmp_path):
    (tmp_path / "profiles").mkdir()
    requests.path_of(tmp_path).write_bytes(content)
    with pytest.raises(ConfigError, match="request.json: is no request of mfa-train profile: remove it"):
        requests.ask(tmp_path, Request(ID, 3, [0]))
    assert module.RequestWatch(tmp_path).new() is None


@pytest.mark.parametrize(
    "asked, told",
    [
        ({"steps": 0}, "--steps=0: expected a whole number of at least 1"),
        ({"steps": 101}, "--steps=101: expected a whole number of at least 1 and at most 100"),
        ({"ranks": "0;7"}, "--ranks=0;7: expected numbers of ranks from 0"),
        ({"ranks": "1,1"}, "--ranks=1,1: expected numbers of ranks from 0, each once"),
        ({"step": 1}, "--step=1: expected a whole number of at least 2"),
        ({}, "no run here"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_the_run_hears_of_it(asked, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        command.ask(tmp_path, **{"steps": 3, "ranks": "0", "step": None} | asked)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "state, told", [("silent", "is silent; it ended before"), ("running", "no profile after 0.1 s")]
)
def test_who_waits_for_a_run_that_is_gone_or_does_not_answer_is_told_and_the_request_taken_back(
    state, told, tmp_path, monkeypatch
):
    monkeypatch.setattr(command, "state_of", lambda run: state)
    monkeypatch.setattr(command, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(command, "STATE_SECONDS", 0.05)
    request = Request(ID, 3, [0])
    requests.ask(tmp_path, request)
    with pytest.raises(UserError, match=told):
        command.wait(tmp_path, request, 0.1, print, print)
    assert requests.read(tmp_path) is None


def test_profile_step_is_held_against_the_runs_steps_and_ranks():
    from mfa_train.training.before_start import checks_before_plan

    for overrides, told in (
        (["profile.step=1"], "profile.step=1: expected a whole number of at least 2"),
        (["profile.ranks=[]"], "profile.ranks=: expected numbers of ranks"),
        (["profile.step=800"], "profile.step=800: the run ends after step 700"),
        (["profile.step=8", "profile.ranks=[0,2]"], "profile.ranks=0,2: the run has 2 ranks"),
        (["profile.ranks=[5]"], "profile.ranks=5: the run has 2 ranks"),
        (
            ["profile.step=699", "profile.steps=5"],
            "profile.steps=5: .* ends at step 700, has 2: type profile.steps=2",
        ),
    ):
        with pytest.raises(ConfigError, match=told):
            for check in checks_before_plan(configs.load(overrides), world_size=2):
                check()
