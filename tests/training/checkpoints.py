"""Checkpoints of one small parameter, to be damaged, and what a run finds of them."""

import dataclasses
import itertools

import torch

from mfa_train import config as configs
from mfa_train.checkpoints import folders as files
from mfa_train.checkpoints.tensor_files import KINDS, RNG, Piece, key_of, write_pieces
from mfa_train.training.resuming.resume_point import find_resume_point
from mfa_train.training.saving.rng import rng_state
from mfa_train.training.steps.state import Progress
from tests.conftest import SMALL

CONFIG = configs.load([*SMALL, "name=run"])
DATA = {"tokenizer": "t", "seed": 1}
VALUES = {kind: torch.arange(10.0) + 100 * number for number, kind in enumerate(KINDS)}


def content_of(step: int, config=CONFIG) -> dict:
    """What a manifest holds beside step, updates, processes and files."""
    return {
        "progress": dataclasses.asdict(Progress(step)),
        "guard": {},
        "data": DATA,
        "config": dataclasses.asdict(config),
        "versions": {},
        "wandb": None,
    }


def save(checkpoints, step: int, cuts=(0, 4, 10), config=CONFIG):
    """One parameter `w` of ten values, written by a rank for each stretch between `cuts`."""
    partial, entries = checkpoints / f"step-{step:08d}.partial-0", []
    for rank, (start, stop) in enumerate(itertools.pairwise(cuts)):
        piece = Piece("w", start, {kind: values[start:stop] for kind, values in VALUES.items()})
        entries.append(
            write_pieces(
                partial,
                rank,
                {
                    RNG: rng_state(),
                    **{key_of(kind, piece): piece.tensors[kind].clone() for kind in KINDS},
                },
            )
        )
    checkpoint = files.folder_of(checkpoints, step)
    files.publish(
        partial,
        checkpoint,
        entries,
        {"step": step, "updates": step, "world_size": len(entries)} | content_of(step, config),
    )
    return checkpoint


def found(tmp_path, say=lambda line: None, **changed):
    return find_resume_point(dataclasses.replace(CONFIG, **changed), tmp_path, DATA, say)


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")
