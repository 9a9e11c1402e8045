"""Fills engines of every ZeRO stage from the folder that is named, each rank what it holds: all its values, gathered,
must be those of one process alone, and the logits too. Each process exits 0 where they are."""

import sys

import torch

from mfa_train import config as configs
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
