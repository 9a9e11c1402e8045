"""Experts and sequences shared over ranks, held against one process that trains the same model in plain torch: no
DeepSpeed, no exchange, the whole batch at once.

    torchrun --nproc-per-node 4 tests/parallel/training_ranks.py 0x4 3x2x1        each goes on from the one before
    torchrun --nproc-per-node 4 tests/parallel/training_ranks.py alone 0x4 3x2x1  each from the start, LONG steps

The words are layouts, STAGExE, STAGExExMICRO_BATCH or STAGExExMICRO_BATCHxC. Each process exits 0 where

- initial weights are, to the bit, those that one process draws;
- every layout's losses and gradient norms are the reference's within TOLERANCE, the tokens of each expert in the first
  step exactly, and at the end masters and moments are;
- a checkpoint holds each value once, is read back to the bit at the next layout, and a fresh engine of the same layout
  goes on from it with the same bits;
- final weights are all experts', those of the masters.
"""

import dataclasses
import re
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from mfa_train import config as configs
from mfa_train.checkpoints.folders import folder_of, verified
from mfa_train.checkpoints.safetensors_folder import TensorFolder
from mfa_train.checkpoints.tensor_files import KINDS
from mfa_train.checkpoints.weights import CheckpointWeights, shapes_of
from mfa_train.data.reading.documents import ModelInputs
from mfa_train.feed_forward.balancing import move_bias
from mfa_train.training.processes.groups import forget_expert_groups, join_context_group
from mfa_train.training.processes.ranks import join
from mfa_train.training.resuming.resume_point import ResumePoint, restore
from mfa_train.training.saving import final_weights
from mfa_train.training.saving.engine_state import own_pieces, pieces
from mfa_train.training.saving.writer import CheckpointWriter
from mfa_train.training.steps.engine import build_engine, build_model
from mfa_train.training.steps.expert_loads import ExpertLoads
from mfa_train.training.steps.optimizer import gradient_norm, make_optimizer
from mfa_train.training.steps.state import Progress
from tests.conftest import SMALL

EXPERTS = [
    "feed_forward=experts",
    *("model.feed_forward.n_routed_experts=8", "model.feed_forward.moe_intermediate_size=24"),
    *("model.feed_forward.bias_update_speed=0.01", "model.feed_forward.router_aux_loss_coef=0.01"),
    "training.gradient_clipping=0.5",
]
BATCH, TOKENS, RATE, TOLERANCE = 8, 16, 3e-3, 1e-4
STEPS, LONG = 4, 20
"""Of each layout."""
LOADED = configs.load([*SMALL, *EXPERTS, f"training.batch_size={BATCH}"])
ranks = join()
folder = Path(ranks.on_rank_zero(tempfile.mkdtemp))
final_weights.write_tokenizer = lambda *_: None


def batch(step: int) -> torch.Tensor:
    return torch.randint(0, 199, (BATCH, TOKENS + 1), generator=torch.Generator().manual_seed(100 + step))


def config_of(zero: int, experts: int, micro_batch: int, context: int) -> configs.Config:
    training = dataclasses.replace(LOADED.training, micro_batch_size=micro_batch)
    parallel = dataclasses.replace(LOADED.parallel, experts=experts, context=context)
    return dataclasses.replace(LOADED, zero=zero, training=training, parallel=parallel)


class Reference:
    """The curve of one process, and what it has learnt."""

    def __init__(self, steps: int):
        config = config_of(1, 1, BATCH // ranks.world_size, 1)
        self.model = build_model(config)
        self.initial = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = make_optimizer(self.model, config)
        self.numbers: list[tuple[float, float]] = []
        for group in self.optimizer.param_groups:
            group["lr"] = RATE
        for step in range(steps):
            tokens = batch(step)
            loss = self.model(tokens[:, :-1], tokens[:, 1:])
            self.optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.training.gradient_clipping)
            self.optimizer.step()
            load, _, _ = self.model.model.routed
            self.model.model.routed = None
            for layer, of_layer in zip(self.model.model.layers, load):
                move_bias(layer.mlp.gate.e_score_correction_bias, of_layer, layer.mlp.bias_update_speed)
            self.numbers.append((loss.item(), norm.item()))
            self.first_load = load if step == 0 else self.first_load

    def of(self, kind: str, name: str) -> torch.Tensor:
        parameter = dict(self.model.named_parameters())[name]
        return (parameter if kind == "master" else self.optimizer.state[parameter][kind]).detach().flatten()


def steps(
    engine, first: int, last: int, micro_batch: int, inputs_of: ModelInputs
) -> tuple[list[tuple[float, float]], torch.Tensor]:
    """Losses and norms of the whole batch, and the first step's tokens of each expert."""
    numbers, loads, first_load = [], ExpertLoads(engine, ranks), torch.empty(0)
    share = BATCH // (ranks.world_size // inputs_of.sequences.size)
    begin = ranks.rank // inputs_of.sequences.size * share
    for step in range(first, last):
        for group in engine.optimizer.param_groups:
            group["lr"] = RATE
        loads.begin()
        total = torch.zeros(())
        mine = batch(step)[begin : begin + share].split(micro_batch)
        for windows in mine:
            tokens, targets, beside = inputs_of(windows.numpy())
            loss = engine(tokens, targets, **beside)
            engine.backward(loss)
            total += loss.detach() / len(mine)
            engine.step()
        loads.end(applied=True)
        numbers.append((ranks.sum(total).item() / ranks.world_size, gradient_norm(engine)))
        first_load = loads.load if step == first else first_load
    return numbers, first_load


def whole(engine) -> dict[tuple[str, str], torch.Tensor]:
    """What all ranks answer for, by kind and parameter, each value once."""
    mine = [(one.name, one.start, one.tensors) for one in own_pieces(engine, ranks.rank, ranks.world_size)]
    found: dict[tuple[str, str], list] = {}
    for name, start, tensors in (one for theirs in ranks.gather_objects(mine) for one in theirs):
        for kind in KINDS:
            found.setdefault((kind, name), []).append((start, tensors[kind].clone()))
    for parts in found.values():
        parts.sort(key=lambda part: part[0])
        ends = [0, *(start + len(values) for start, values in parts)]
        assert ends[:-1] == [start for start, _ in parts], "not each value once"
    return {key: torch.cat([values for _, values in parts]) for key, parts in found.items()}


def save(engine, step: int, config) -> ResumePoint:
    writer = CheckpointWriter(dataclasses.replace(config.checkpoint, keep_last=100), folder, 0, ranks, 60)
    manifest = {"progress": dataclasses.asdict(Progress(step)), "guard": {}, "data": {}, "versions": {}}
    writer.save(engine, step, manifest | {"config": dataclasses.asdict(config)})
    writer.wait()
    ranks.meet()
    checkpoint = folder_of(folder, step)
    return ResumePoint(checkpoint, verified(checkpoint), [], [])


def farthest(found, expected) -> float:
    return max(abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True))


def check_initial(engine, reference: Reference) -> None:
    for piece in pieces(engine):
        expected = reference.initial[piece.name].flatten()[piece.start : piece.start + len(piece)]
        assert torch.equal(piece.tensors["master"], expected), piece.name


def check_final_weights(engine, masters: dict[tuple[str, str], torch.Tensor], shapes) -> None:
    final_weights.SHARD = 20_000
    final_weights.save_weights(engine, None, folder / "final", ranks)
    files = TensorFolder(folder / "final")
    assert len(files.files) > ranks.world_size
    for name, shape in shapes.items():
        for place in range(shape[0]) if ".experts." in name else [None]:
            on_disk = name if place is None else name.replace(".experts.", f".experts.{place}.")
            size = torch.Size(shape if place is None else shape[1:]).numel()
            values = torch.empty(size)
            files.read(on_disk, 0, values)
            begin = size * (place or 0)
            assert torch.equal(values, masters["master", name][begin : begin + size]), on_disk
    ranks.meet()


def check(layouts: list[tuple[int, int, int, int]], each: int = STEPS) -> dict[str, float]:
    """Trains on from layout to layout, `each` so many steps; the largest relative differences."""
    reference = Reference(each * len(layouts))
    differences, point, before = {"loss": 0.0, "norm": 0.0}, None, {}
    for number, (zero, experts, micro_batch, context) in enumerate(layouts):
        what = (layouts, number)
        forget_expert_groups()
        config = config_of(zero, experts, micro_batch, context)
        inputs_of = ModelInputs(ranks.device, None, join_context_group(context, ranks))
        engine, begin = build_engine(config, ranks, torch.float32), number * each
        if point is None:
            check_initial(engine, reference)
        else:
            weights = CheckpointWeights(point.checkpoint, point.content, config, shapes_of(config))
            assert all(weights.tensor(name).shape == shape for name, shape in weights.shapes.items())
            restore(engine, point, ranks)
            there = whole(engine)
            assert all(torch.equal(there[key], values) for key, values in before.items()), what
        numbers, load = steps(engine, begin, begin + each, micro_batch, inputs_of)
        assert len(set(ranks.gather_objects(tuple(norm for _, norm in numbers)))) == 1, "ranks differ"
        if point is None:
            assert torch.equal(load, reference.first_load), what
        expected = reference.numbers[begin : begin + each]
        for kind, place in (("loss", 0), ("norm", 1)):
            there = farthest([one[place] for one in numbers], [one[place] for one in expected])
            assert there < TOLERANCE, (what, kind, there)
            differences[kind] = max(differences[kind], there)
        if point is not None and number == len(layouts) - 1:
            again = build_engine(config, ranks, torch.float32, fresh=False)
            restore(again, point, ranks)
            assert steps(again, begin, begin + each, micro_batch, inputs_of)[0] == numbers, "another bit"
        before, point = whole(engine), save(engine, begin + each, config)
    for kind in KINDS:
        differences[kind] = max(
            float((before[kind, name] - values).abs().max() / values.abs().max())
            for name, values in ((name, reference.of(kind, name)) for name, _ in reference.model.named_parameters())
        )
        assert differences[kind] < 1e-2, (layouts, differences)  # a wrong divisor shows as a half or more
    check_final_weights(engine, before, shapes_of(config))
    return differences


def layout(word: str) -> tuple[int, int, int, int]:
    stage, experts, *others = map(int, re.split("x", word))
    micro_batch, context = (*others, *(BATCH // ranks.world_size, 1)[len(others) :])
    return stage, experts, micro_batch, context


def told(what: str, differences: dict[str, float]) -> None:
    there = ", ".join(f"{kind} {value:.0e}" for kind, value in differences.items())
    ranks.say(f"world {ranks.world_size}, {what}: {there}")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[0] == "alone":
        for word in words[1:]:
            told(word, check([layout(word)], LONG))
    else:
        told(" ".join(words), check([layout(word) for word in words]))
    ranks.meet()
    if ranks.is_rank_zero:
        shutil.rmtree(folder)
    sys.exit(0)
