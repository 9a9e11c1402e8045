"""train.py whose loss is multiplied by a factor at chosen steps: `poisoned.py RANK FIRST LAST FACTOR OVERRIDES…`.

A step here is a batch of the data order, not of the run: the same samples are poisoned again when they are seen again.
"""

import sys

import numpy as np

from mfa_train import config as configs
from mfa_train.data.reading.samples import Samples
from mfa_train.doors import report
from mfa_train.model.decoder import LanguageModel
from mfa_train.training.processes.ranks import join
from mfa_train.training.run import run

rank, first, last = map(int, sys.argv[1:4])
factor, config = float(sys.argv[4]), configs.load(sys.argv[5:])
batch, forward, order = 0, LanguageModel.forward, Samples.batch


def watched(self, indices: np.ndarray) -> np.ndarray:
    global batch
    batch = int(indices[0]) // config.training.batch_size + 1
    return order(self, indices)


def poisoned(self, *arguments, **named):
    loss = forward(self, *arguments, **named)
    bad = self.training and first <= batch <= last and join().rank == rank
    return loss * factor if bad else loss


Samples.batch, LanguageModel.forward = watched, poisoned
sys.exit(report(lambda: run(config)))
