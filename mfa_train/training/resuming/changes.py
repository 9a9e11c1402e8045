"""What of the config may change between a checkpoint and the start that goes on from it.

Refused, since the curve would be another run's: what changes the model, the data or their order. (Where the data come
from may change, as from a disk to a bucket: they are compared by what they are, `Batches.identity`.) Accepted and
written down: how long, how fast and on what it is trained (steps, learning rate, schedule, ZeRO stage, number of
processes, precision, …). Free: what changes no number.
"""

import dataclasses
from typing import Any

import torch

from mfa_train import config as configs
from mfa_train.config import Config
from mfa_train.config.effects import BOOKKEEPING
from mfa_train.training.resuming.stretches import HARMLESS

FREE = (
    *BOOKKEEPING,
    "data.corpora",
    "match.",
    "guard.hang_seconds",
    "model.initialization.draw",
    "plan.context",
    "plan.mfu",
    "plan.decode_counting",
    "plan.check",
)
"""Beginnings of keys whose changes are not told. `match.` has done its work in the model and attention that it shaped,
and these are compared. The draw of the initial weights, too, has done its work: a run that goes on keeps the one that
its checkpoint tells of (`resuming.build`)."""
REFUSED = (
    "attention.",
    "model.",
    "data.document_mask",
    "init_from:",
    "seed:",
    "training.batch_size",
    "training.sequence_length",
    "training.sequence_schedule",
)
ACCEPTED = ("attention.kernel", "model.learning_rate", "model.max_position_embeddings")
"""Among the refused."""


def changes(old: dict, config: Config) -> tuple[list[str], list[str]]:
    """(refused, accepted) differences of `config` from the plain mapping `old`, each `key: old -> new`."""
    lines = [line for line in configs.differences(old, dataclasses.asdict(config)) if not line.startswith(FREE)]
    refused = [line for line in lines if line.startswith(REFUSED) and not line.startswith(ACCEPTED)]
    return refused, [line for line in lines if line not in refused]


def curve_settings(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    """What may change on the way and shapes the curve: a stretch's part of the config. `dtype` is what its precision
    means here."""
    refused = tuple(key.rstrip(":") for key in REFUSED)
    settings = {
        key: value
        for key, value in configs.flat(dataclasses.asdict(config)).items()
        if not key.startswith((*FREE, *refused, *HARMLESS))
    }
    del settings["training.tokens"]
    return settings | {
        "training.steps": config.training.total_steps,
        "precision": {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype],
    }
