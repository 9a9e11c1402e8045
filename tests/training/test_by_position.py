"""Held-out loss by position: its bins are those of every target's own loss, and their weighted mean is val/loss."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from mfa_train.data.reading.batches import WHOLE
from mfa_train.data.reading.documents import ModelInputs
from mfa_train.tracking.by_position import NAME, TOLD, told
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.steps.evaluation import Evaluator

LENGTH, WINDOWS, SEPARATOR = 24, 7, 0
POSITIONS = {1: [0], 2: [1], 4: [2, 3], 8: range(4, 8), 16: range(8, 16), 24: range(16, 24)}
CPU = torch.device("cpu")


def metrics_and_losses(model, separator: int | None, stages=None):
    """Of the evaluation with and without positions, and each target's loss and its tokens to look at, by torch's own
    cross-entropy, document by document."""
    windows = np.random.default_rng(2).integers(1, 199, (WINDOWS, LENGTH + 1))
    windows[2, 9] = windows[2, 17] = windows[5, 4] = SEPARATOR
    held_out = SimpleNamespace(
        sequence_length=LENGTH, windows={"text": np.arange(WINDOWS)}, at=lambda name, which: windows[which]
    )
    data = SimpleNamespace(
        held_out=held_out,
        batches=SimpleNamespace(mine=WHOLE),
        inputs_of=ModelInputs(CPU, separator),
        tokenizer=SimpleNamespace(token_bytes=np.ones(199, dtype=np.int64)),
    )
    ranks = Ranks(0, 1, CPU, dist.HashStore())
    found = [Evaluator(data, 3, ranks, asked, stages)(model) for asked in (True, False)]
    losses = []
    for window in torch.from_numpy(windows):
        inside = [] if separator is None else (window[:-1] == separator).nonzero().flatten().tolist()
        for begin, end in pairwise([0, *inside, LENGTH]):
            with torch.no_grad():
                logits = model(window[None, begin:end])[0]
            each = F.cross_entropy(logits, window[begin + 1 : end + 1], reduction="none")
            losses += list(enumerate(each.tolist()))
    return *found, losses


@pytest.mark.parametrize("separator", [None, SEPARATOR], ids=["window", "document"])
def test_each_bin_is_the_mean_of_its_targets_and_all_together_are_the_loss(small_model, separator):
    told_of, plain, losses = metrics_and_losses(small_model("mla"), separator)
    of_bins = {last: [loss for place, loss in losses if place in places] for last, places in POSITIONS.items()}
    assert told(told_of) == {
        TOLD: {str(last): pytest.approx(np.mean(own), abs=1e-5) for last, own in of_bins.items() if own}
    }
    weighted = sum(told_of[f"{NAME}{last}"] * len(own) for last, own in of_bins.items()) / len(losses)
    assert weighted == pytest.approx(told_of["val/loss"], abs=1e-6)
    assert {key: value for key, value in told_of.items() if not key.startswith(NAME)} == plain and not told(plain)


def test_bins_end_with_the_length_of_the_stage(small_model):
    stages = SimpleNamespace(now=SimpleNamespace(sequence_length=12))
    told_of, _, _ = metrics_and_losses(small_model("mla"), None, stages)
    assert [*told(told_of)[TOLD]] == ["1", "2", "4", "8", "12"]
