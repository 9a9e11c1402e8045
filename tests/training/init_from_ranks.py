"""Fills engines of every ZeRO stage from the folder that is named, each rank what it holds: all its values, gathered,
must be those of one process alone, and the logits too; each rank reads a share of the files for their checksums. Each
process exits 0 where they are."""

import functools
import json
import sys
from pathlib import Path

import torch

from mfa_train import config as configs
from mfa_train.errors import DataError
from mfa_train.training.init_from.source import open_source
from mfa_train.training.processes.ranks import join
from mfa_train.training.saving.engine_state import fill, own_pieces, updates
from mfa_train.training.steps.engine import build_engine

folder, *overrides = sys.argv[1:]
ranks = join()
tokens = torch.arange(34).view(2, 17)
for zero, dtype in ((1, torch.float32), (3, torch.float32), (3, torch.bfloat16)):
    config = configs.load([*overrides, f"zero={zero}", f"training.batch_size={ranks.world_size}"])
    source = open_source(folder, config)
    engine = build_engine(config, ranks, dtype, fresh=False)
    fill(engine, source)
    found = torch.zeros(())
    for piece in own_pieces(engine, ranks.rank, ranks.world_size):
        expected = torch.empty(len(piece))
        source.read(piece.name, piece.start, expected)
        assert torch.equal(piece.tensors["master"], expected), piece.name
        assert not piece.tensors["exp_avg"].any() and not piece.tensors["exp_avg_sq"].any()
        found += len(piece)
    assert updates(engine) == 0
    assert ranks.sum(found) == sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters())
    engine.eval()
    with torch.no_grad():
        logits = engine(tokens).float()
    if ranks.is_rank_zero:
        torch.save(logits, f"{folder}/zero-{zero}-{str(dtype)[6:]}.logits")

shares = ranks.on_each(lambda: source.sums(slice(ranks.rank, None, ranks.world_size)))
assert not set(shares[0]) & set(shares[1])
if ranks.is_rank_zero:
    Path(folder, "record").write_text(json.dumps(source.record({**shares[0], **shares[1]})))


def damaged() -> None:
    if ranks.rank == 1:
        raise DataError("rank 1's share")


try:
    ranks.on_each(damaged)
except DataError as error:
    assert error.everywhere and str(error) == "rank 1's share"
else:
    raise AssertionError("nobody was told")


class Unsendable(Exception):
    """Is made of two words, which pickle does not know."""

    def __init__(self, one: str, other: str):
        super().__init__(f"{one} {other}")


def unsendable(failing: int) -> None:
    if ranks.rank == failing:
        raise Unsendable("torn", "apart")


for failing, together in ((1, ranks.on_each), (0, ranks.on_rank_zero)):
    try:
        together(functools.partial(unsendable, failing))
    except RuntimeError as error:
        assert str(error) == "Unsendable('torn apart')"
    else:
        raise AssertionError("nobody was told")
