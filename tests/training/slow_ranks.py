"""Two ranks, of which rank 1 is slow under ZeRO 3, where every pass waits for all, and is found; then it stands still
while the other waits for it in a collective, until the watchdog ends them. The stacks go into the folder that is
named."""

import sys
import time
from pathlib import Path

import torch

from mfa_train import config as configs
from mfa_train.training.processes.ranks import join
from mfa_train.training.processes.watchdog import Watchdog
from mfa_train.training.steps.engine import build_engine
from mfa_train.training.steps.gathers import time_gathers
from mfa_train.training.steps.phases import BACKWARD, DATA, FORWARD, OPTIMIZER, Phases
from tests.conftest import SMALL

GATHERED = "+deepspeed.zero_optimization.stage3_param_persistence_threshold=0"
"""All parameters are, however small."""


def standing_still() -> None:
    time.sleep(60)


ranks = join()
config = configs.load([*SMALL, "zero=3", "training.batch_size=2", GATHERED])
engine = build_engine(config, ranks, torch.float32)
phases = Phases(ranks)
time_gathers(engine, phases)
if ranks.rank == 1:
    for layer in engine.module.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: time.sleep(0.15))
for number in range(4):
    phases.begin()
    tokens = torch.randint(0, 199, (1, 17))
    phases.end(DATA)
    loss = engine(tokens[:, :-1], tokens[:, 1:])
    phases.end(FORWARD)
    engine.backward(loss)
    phases.end(BACKWARD)
    engine.step()
    phases.end(OPTIMIZER)
    if number in (0, 3):  # the first finds out in which order parameters are asked for
        told = ranks.gather(torch.tensor(phases.of_this_rank(), dtype=torch.float64)).tolist()
        record = phases.take(told)
assert record["time/forward_seconds"] + record["time/backward_seconds"] > 0.3, record  # on rank 0 too, which waits
assert record["ranks/slowest"] == 1 and record["ranks/slowest_ratio"] > 1.5, record
ranks.meet()

with Watchdog(ranks, 1.0 if ranks.is_rank_zero else 60.0, Path(sys.argv[1])):
    if ranks.rank == 1:
        standing_still()
    ranks.sum(torch.ones(1))
