"""What records tell of a step's time, of memory and of the slowest rank."""

import time

import pytest
import torch
import torch.distributed as dist

from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.steps.phases import BACKWARD, DATA, FORWARD, MOST_EVENTS, OPTIMIZER, RECORDS, Phases


@pytest.fixture
def ranks(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(Ranks, "say", lambda self, message: said.append(message))
    store = dist.HashStore()
    store.set("host/2", "node-7")
    ranks = Ranks(0, 4, torch.device("cpu"), store)
    return ranks, said


def test_phases_add_up_to_the_step_and_each_record_begins_anew(ranks):
    phases = Phases(ranks[0])
    for _ in range(2):
        phases.begin()
        time.sleep(0.02)
        phases.end(DATA)
        for phase in (FORWARD, BACKWARD, OPTIMIZER):
            phases.end(phase)
    own, peak = phases.of_this_rank()
    record = phases.take([[own, peak]])
    assert 0.02 <= record["time/data_seconds"] < 0.2 and record["time/backward_seconds"] < 0.02 <= own
    assert record["memory/peak_bytes"] > 1e7 and "ranks/slowest" not in record
    assert phases.take([[0.0, 1.0]])["time/data_seconds"] == 0


def test_a_rank_that_stays_slow_is_named_with_its_host_once(ranks):
    phases, said = Phases(ranks[0]), ranks[1]
    slow = [[1.0, 5.0], [1.1, 9.0], [1.5, 5.0], [1.0, 5.0]]
    record = phases.take(slow)
    assert (record["ranks/slowest"], record["ranks/slowest_ratio"], record["memory/peak_bytes"]) == (2, 1.5, 9)
    phases.take([[1.0, 5.0]] * 4)
    assert not said
    for _ in range(2 * RECORDS):
        phases.take(slow)
    assert len(said) == 1 and "rank 2 on node-7 is slow" in said[0] and "1.50 times" in said[0]


def test_a_gpus_events_are_read_on_the_way_where_no_record_does_it_for_long(ranks, monkeypatch):
    class Event:
        """Of a device that is done with all that it was given."""

        def __init__(self):
            self.at = time.perf_counter()

        def query(self) -> bool:
            return True

        def elapsed_time(self, other: "Event") -> float:
            return 1000 * (other.at - self.at)

    phases = Phases(ranks[0])
    phases.on_gpu = True
    monkeypatch.setattr(Phases, "_now", lambda self: Event())
    begun = time.perf_counter()
    for _ in range(MOST_EVENTS):
        phases.begin()
        for phase in (DATA, FORWARD, BACKWARD, OPTIMIZER):
            phases.end(phase)
    assert len(phases.events) <= MOST_EVENTS + 4
    phases._read()
    assert phases.steps == MOST_EVENTS and 0 < sum(phases.seconds.values()) < time.perf_counter() - begun
