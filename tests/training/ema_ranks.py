"""The average of the weights on two ranks, from stage to stage: each engine goes on from the checkpoint of the one
before, at another stage and precision. Each process exits 0 where

- the average is what float64 makes of the masters of each update by hand, a skipped step left out;
- the loss under averaged weights is that of a plain model with the average in it, and nothing is another bit behind it;
- a checkpoint gives it back at any stage, as the reader of weights has it, and one without it the masters.
"""

import dataclasses
import math
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from mfa_train import config as configs
from mfa_train.checkpoints.folders import folder_of, verified
from mfa_train.checkpoints.tensor_files import EMA, KINDS
from mfa_train.checkpoints.weights import CheckpointWeights, shapes_of
from mfa_train.training.processes.ranks import join
from mfa_train.training.resuming.resume_point import ResumePoint, restore
from mfa_train.training.saving.engine_state import averaged_weights, own_pieces, pieces, updates
from mfa_train.training.saving.writer import CheckpointWriter
from mfa_train.training.steps.engine import build_engine, build_model
from mfa_train.training.steps.optimizer import inner_optimizer
from mfa_train.training.steps.state import Progress
from tests.conftest import SMALL

DECAY = 0.4
"""Below what the seventh update's t / (t + 9) is: both sides of the warm-up are seen."""
ENGINES = [
    (0, torch.float32, "none"),
    (0, torch.bfloat16, "none"),
    (1, torch.bfloat16, "none"),
    (2, torch.float32, "optimizer"),
    (3, torch.bfloat16, "none"),
    (3, torch.float32, "parameters"),
]
"""ZeRO stage, precision, `offload`."""
ranks = join()
folder = Path(ranks.on_rank_zero(tempfile.mkdtemp))


def batch(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + ranks.rank)
    return torch.randint(0, 199, (2, 17), generator=generator)


def config_of(zero: int, *overrides: str) -> configs.Config:
    return configs.load([*SMALL, f"zero={zero}", f"training.batch_size={2 * ranks.world_size}", *overrides])


def loss_of(model, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        return model(tokens[:, :-1], tokens[:, 1:]).item()


def kept(engine) -> dict[tuple[str, int], dict[str, torch.Tensor]]:
    return {
        (piece.name, piece.start): {kind: tensor.clone() for kind, tensor in piece.tensors.items()}
        for piece in pieces(engine)
    }


def whole(engine, kind: str) -> dict[str, torch.Tensor]:
    """Of all ranks, by parameter, flattened."""
    mine = [(one.name, one.start, one.tensors[kind].clone()) for one in own_pieces(engine, ranks.rank, 2)]
    found: dict[str, list] = {}
    for name, start, values in (one for theirs in ranks.gather_objects(mine) for one in theirs):
        found.setdefault(name, []).append((start, values))
    return {
        name: torch.cat([values for _, values in sorted(parts, key=lambda part: part[0])])
        for name, parts in found.items()
    }


def train_by_hand(engine, first: int) -> None:
    """Four steps from `first` on, the second of them without an update."""
    optimizer = inner_optimizer(engine)
    expected = {place: tensors[EMA].double() for place, tensors in kept(engine).items()}
    made = updates(engine)
    for step in range(first, first + 4):
        for group in engine.optimizer.param_groups:
            group["lr"] = 3e-3
        optimizer.update_applies = (lambda: False) if step == first + 1 else (lambda: True)
        tokens = batch(step)
        engine.backward(engine(tokens[:, :-1], tokens[:, 1:]))
        engine.step()
        now = kept(engine)
        if step != first + 1:
            made += 1
            decay = min(DECAY, made / (made + 9))
            for place, tensors in now.items():
                expected[place] = decay * expected[place] + (1 - decay) * tensors["master"].double()
        for place, tensors in now.items():
            torch.testing.assert_close(tensors[EMA].double(), expected[place], rtol=1e-5, atol=1e-7)
    assert updates(engine) == made


def look_at_average(engine, config, dtype: torch.dtype) -> None:
    """The averaged weights are a plain model's; then all is as it was."""
    before, loss = kept(engine), loss_of(engine, batch(0))
    average = whole(engine, EMA)
    plain = build_model(config)
    for name, parameter in plain.named_parameters():
        parameter.data = average[name].view(parameter.shape)
    expected = loss_of(plain.to(dtype), batch(0))
    with averaged_weights(engine):
        found = loss_of(engine, batch(0))
    assert math.isclose(found, expected, rel_tol=1e-6) and found != loss, (found, expected, loss)
    after = kept(engine)
    assert all(torch.equal(after[place][kind], before[place][kind]) for place in before for kind in before[place])
    assert loss_of(engine, batch(0)) == loss


def saved(engine, step: int, config) -> ResumePoint:
    writer = CheckpointWriter(dataclasses.replace(config.checkpoint, keep_last=100), folder, 0, ranks, 60)
    ema = {} if config.training.ema is None else {EMA: config.training.ema}
    manifest = {"progress": dataclasses.asdict(Progress(step)), "guard": {}, "data": {}, "versions": {}}
    writer.save(engine, step, manifest | {"config": dataclasses.asdict(config)} | ema)
    writer.wait()
    ranks.meet()
    checkpoint = folder_of(folder, step)
    return ResumePoint(checkpoint, verified(checkpoint), [], [])


def main() -> None:
    point: ResumePoint | None = None
    step = 0
    for zero, dtype, offload in ENGINES:
        config = config_of(zero, f"training.ema={DECAY}", f"offload={offload}")
        engine = build_engine(config, ranks, dtype)
        if point:
            weights = CheckpointWeights(point.checkpoint, point.content, config, shapes_of(config), averaged=True)
            restore(engine, point, ranks)
            for name, values in whole(engine, EMA).items():
                assert torch.equal(weights.tensor(name, torch.float32).flatten(), values), (zero, dtype, name)
        train_by_hand(engine, step)
        look_at_average(engine, config, dtype)
        step += 4
        point = saved(engine, step, config)
        assert point.content["format"] == 3 and point.content["ema"] == DECAY
    assert point is not None
    engine = build_engine(without := config_of(1), ranks, torch.float32)  # the average is left out
    restore(engine, point, ranks)
    assert all(piece.tensors.keys() == set(KINDS) for piece in pieces(engine))
    point = saved(engine, step + 1, without)
    assert point.content["format"] == 2 and "ema" not in point.content
    engine = build_engine(config_of(2, f"training.ema={DECAY}"), ranks, torch.bfloat16)  # and begins
    list(pieces(engine))
    restore(engine, point, ranks)
    for piece in pieces(engine):
        assert torch.equal(piece.tensors[EMA], piece.tensors["master"])
    ranks.meet()
    if ranks.is_rank_zero:
        shutil.rmtree(folder)


main()
sys.exit(0)
