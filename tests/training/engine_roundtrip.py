"""Trains at every ZeRO stage, each at one precision or with `all` at both, puts the engine's pieces into a fresh one,
and trains both on: the losses and gradient norms must be the same bits, the averages of the weights too, and the ranks'
own pieces all the parameters. The pieces begin with the bits of a model that one process builds; final weights in
several files must be those in one, and gathered one at a time. Each process exits 0 where they are.
"""

import shutil
import sys
import tempfile
import weakref
from pathlib import Path

import torch

from mfa_train import config as configs
from mfa_train.checkpoints.safetensors_folder import TensorFolder
from mfa_train.checkpoints.tensor_files import EMA
from mfa_train.checkpoints.weights import SUM
from mfa_train.model.decoder import weights_of_model
from mfa_train.model.initialization import InitialValues
from mfa_train.training.processes.ranks import join
from mfa_train.training.saving import final_weights
from mfa_train.training.saving.engine_state import derive_weights, own_pieces, pieces, set_updates, updates
from mfa_train.training.steps.engine import build_engine, build_model
from mfa_train.training.steps.optimizer import gradient_norm
from tests.conftest import SMALL

EXPERTS = [
    "feed_forward=experts",
    *("model.feed_forward.n_routed_experts=6", "model.feed_forward.moe_intermediate_size=24"),
    *("model.feed_forward.first_k_dense_replace=1", "model.feed_forward.bias_update_speed=0.01"),
]

ranks = join()


def steps(engine, first: int, last: int) -> list[tuple[float, float]]:
    numbers = []
    for step in range(first, last):
        for group in engine.optimizer.param_groups:
            group["lr"] = 3e-3
        generator = torch.Generator().manual_seed(100 * step + ranks.rank)
        tokens = torch.randint(0, 199, (2, 17), generator=generator)
        loss = engine(tokens[:, :-1], tokens[:, 1:])
        engine.backward(loss)
        engine.step()
        numbers.append((loss.item(), gradient_norm(engine)))
    return numbers


def check(zero: int, dtype: torch.dtype, *overrides: str) -> None:
    typed = [f"zero={zero}", f"training.batch_size={2 * ranks.world_size}", "training.ema=0.5", *overrides]
    config = configs.load([*SMALL, *typed])
    if zero == 0 and ranks.rank:  # as a processor that rounds another way
        InitialValues.read = read_a_bit_off
    engine, fresh = (build_engine(config, ranks, dtype) for _ in range(2))
    InitialValues.read = read
    initial = build_model(config).state_dict()
    for piece in pieces(fresh):
        expected = initial[piece.name].flatten()[piece.start : piece.start + len(piece)]
        assert torch.equal(piece.tensors["master"], expected), (zero, dtype, piece.name)
    steps(engine, 0, 2)
    saved = {
        (piece.name, piece.start): {kind: tensor.clone() for kind, tensor in piece.tensors.items()}
        for piece in pieces(engine)
    }
    made = updates(engine)
    owned = ranks.sum(torch.tensor(sum(map(len, own_pieces(engine, ranks.rank, ranks.world_size))))).item()
    assert owned == sum(getattr(p, "ds_numel", p.numel()) for p in weights_of_model(engine.module).values())
    numbers = steps(engine, 2, 4)
    for piece in pieces(fresh):
        for kind, tensor in piece.tensors.items():
            tensor.copy_(saved[piece.name, piece.start][kind])
    set_updates(fresh, made)
    derive_weights(fresh)
    assert (found := steps(fresh, 2, 4)) == numbers, (zero, dtype, overrides, found, numbers)
    for one, other in zip(pieces(engine), pieces(fresh), strict=True):
        assert torch.equal(one.tensors[EMA], other.tensors[EMA]), (zero, dtype, overrides, one.name)
        learnt = one.name in dict(engine.module.named_parameters())  # a router's bias has no average of its own
        assert learnt != torch.equal(one.tensors[EMA], one.tensors["master"]), (zero, dtype, overrides, one.name)
    check_final_weights(fresh)


read = InitialValues.read


def read_a_bit_off(self: InitialValues, name: str, start: int, out: torch.Tensor) -> None:
    read(self, name, start, out)
    out.mul_(1 + 2**-22)


def check_final_weights(engine) -> None:
    folders = []
    for shard in (10**9, 30_000):
        final_weights.SHARD = shard
        folders.append(folder / f"final-{shard}")
        final_weights.save_weights(engine, None, folders[-1], ranks)
    one, several = (TensorFolder(path) for path in folders)
    assert [path.name for path in one.files] == ["model.safetensors"] and len(several.files) > 4
    assert all(path.stat().st_size < 60_000 for path in several.files)
    assert list(one.shapes.items()) == list(several.shapes.items())
    for name, shape in one.shapes.items():
        values = [torch.empty(torch.Size(shape).numel()) for _ in range(2)]
        for weights, out in zip((one, several), values):
            weights.read(name, 0, out)
        assert torch.equal(*values), name
    assert all(path.name in (folders[1] / SUM).read_text() for path in several.files)
    assert written and max(held) == 1, "more than one gathered weight was held"
    ranks.meet()
    written.clear()


def write_watched(path, forms, made):
    """`write_mixed`, noting how many gathered weights there are at a time."""
    there: list = []

    def watched(name):
        tensor = made(name)
        whole = tensor if tensor._base is None else tensor._base
        if not any(one() is whole for one in there):
            there.append(weakref.ref(whole))
        held.append(sum(one() is not None for one in there))
        return tensor

    written.append(path)
    return write_mixed(path, forms, watched)


held: list[int] = []
written: list[Path] = []
write_mixed, final_weights.write_mixed = final_weights.write_mixed, write_watched
final_weights.write_tokenizer = lambda *_: None
folder = Path(ranks.on_rank_zero(tempfile.mkdtemp))
dtypes = [torch.float32, torch.bfloat16]
for zero in (0, 1, 2, 3):
    for dtype in dtypes if sys.argv[1:] == ["all"] else [dtypes[zero % 2]]:
        check(zero, dtype)
check(3, torch.float32, "offload=parameters")
if sys.argv[1:] == ["all"]:
    check(2, torch.bfloat16, "offload=optimizer")
    check(0, torch.float32, *EXPERTS)
for zero in (1, 3):
    check(zero, torch.bfloat16, *EXPERTS)
ranks.meet()
if ranks.is_rank_zero:
    shutil.rmtree(folder)
sys.exit(0)
