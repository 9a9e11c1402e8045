"""Training throughput of one 17M-parameter MHA decoder: this trainer, Hugging Face Llama, litgpt.

6 layers, hidden 384, 6 heads of 64, SwiGLU 1024, vocabulary 8192, sequence 512, batch 4; bf16 products with float32
master weights, AdamW, gradient clipping. Each contender is a process of its own, eager and compiled, and they take
turns: in every round each trains for ten steps while the others wait. Prints each one's median tokens/s at its better
setting, the ratios to this trainer, and the share of the measured matrix-product peak. One that fails says why below
the table. The last line is JSON.

    make bench        or        .venv/bin/python benchmarks/throughput.py [--rounds 7]
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from contenders import Contender

LAYERS, HIDDEN, HEADS, INTERMEDIATE, VOCAB, SEQUENCE, BATCH = 6, 384, 6, 1024, 8192, 512, 4
STEPS = 10
LEARNING_RATE, WEIGHT_DECAY, BETAS, CLIP = 1e-3, 0.1, (0.9, 0.95), 1.0


def mfa_train(compiled: bool) -> Iterator[None]:
    """As users run it: the trainer's own loop and logs, DeepSpeed, ZeRO 1, one process."""
    import numpy as np
    import torch

    from mfa_train import config as configs
    from mfa_train.budget.devices import planned_device
    from mfa_train.budget.peak import Peak
    from mfa_train.budget.plan import make_plan
    from mfa_train.data.reading.batches import Batches
    from mfa_train.data.reading.documents import ModelInputs
    from mfa_train.data.shards.cache import ShardCache
    from mfa_train.data.shards.megatron_form import write_shard
    from mfa_train.data.shards.shard import Shard
    from mfa_train.data.shards.shards import Shards
    from mfa_train.data.shards.store import ShardStore
    from mfa_train.tracking.run_log import RunLog
    from mfa_train.training.processes.ranks import join
    from mfa_train.training.processes.signals import StopSignals
    from mfa_train.training.saving.save_points import SavePoints
    from mfa_train.training.steps.engine import build_engine
    from mfa_train.training.steps.guard import Guard
    from mfa_train.training.steps.loop import train
    from mfa_train.training.steps.profiling import Profiling
    from mfa_train.training.steps.speed import Speed
    from mfa_train.training.steps.state import Progress, TrainingState
    from mfa_train.training.steps.step import TrainingStep

    folder = Path(tempfile.mkdtemp())
    config = configs.load(
        [
            "attention=mha",
            "model=tiny",
            f"model.vocab_size={VOCAB}",
            f"training.batch_size={BATCH}",
            "precision=bf16",
            f"training.compile={compiled}",
            f"training.log_every={STEPS}",
            "training.steps=1000000",
            "zero=1",
            "training.eval_every=1000000",
            "checkpoint.every_steps=null",
            "tracking.wandb=offline",
            f"runs_dir={folder}",
            f"data_dir={folder}",
        ]
    )
    write_shard(folder / "tokens", [np.random.default_rng(0).integers(0, VOCAB, 2**20)], VOCAB)
    shards = Shards(ShardStore(folder, ShardCache(folder, 0)), [Shard("tokens", 2**20, "uint16")], VOCAB)
    corpus = SimpleNamespace(train=shards, tokenizer=SimpleNamespace(sha256=""), identity=dict)
    batches = Batches({"random": corpus}, config.data, SEQUENCE, 0, BATCH)  # type: ignore[dict-item]  # all it asks
    ranks, plan = join(), make_plan(config)
    config.run_dir.mkdir(parents=True)
    engine = build_engine(config, ranks, torch.bfloat16)
    assert sum(p.numel() for p in engine.module.parameters()) == parameters()
    log = RunLog(config.tracking, config.run_dir, {}, config.training.total_steps)
    inputs_of = ModelInputs(ranks.device, separator=None)
    state = TrainingState(Progress(), Guard(config.guard, print))
    step = TrainingStep(engine, config, ranks, batches, inputs_of, state)
    peak = Peak(planned_device("cpu", 1), torch.bfloat16, print)
    speed = Speed(plan, peak, ranks.world_size)
    with StopSignals() as signals:
        save_points = SavePoints(config, ranks, 0, batches.identity(), log, signals, None)
        with Profiling(config, ranks, save_points.agreed, done=0) as profiling:
            for record in train(step, speed, lambda model: {}, save_points, log.advance, profiling):
                log.log(record)
                yield


def hugging_face(compiled: bool) -> Iterator[None]:
    """transformers' Llama in a plain AdamW loop."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=INTERMEDIATE,
            vocab_size=VOCAB,
            max_position_embeddings=SEQUENCE,
            tie_word_embeddings=False,
            use_cache=False,
        )
    )
    yield from _plain_loop(
        model, lambda tokens: model(input_ids=tokens, labels=tokens).loss, compiled, lambda: model.compile(), torch
    )


def litgpt(compiled: bool) -> Iterator[None]:
    """litgpt's GPT with its chunked cross-entropy in a plain AdamW loop."""
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    model = GPT(
        Config(
            n_layer=LAYERS,
            n_embd=HIDDEN,
            n_head=HEADS,
            head_size=HIDDEN // HEADS,
            intermediate_size=INTERMEDIATE,
            vocab_size=VOCAB,
            padded_vocab_size=VOCAB,
            block_size=SEQUENCE,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
        )
    )
    model.max_seq_length = SEQUENCE

    def loss(tokens):
        return chunked_cross_entropy(model(tokens)[:, :-1], tokens[:, 1:], chunk_size=0)

    yield from _plain_loop(model, loss, compiled, lambda: model.compile(), torch)


def _plain_loop(model, loss_of, compiled: bool, compile_model, torch) -> Iterator[None]:
    assert sum(p.numel() for p in model.parameters()) == parameters()
    if compiled:
        compile_model()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    generator = torch.Generator().manual_seed(0)
    while True:
        for _ in range(STEPS):
            tokens = torch.randint(0, VOCAB, (BATCH, SEQUENCE), generator=generator)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(tokens)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()
        yield


def parameters() -> int:
    return 2 * VOCAB * HIDDEN + LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE + 2 * HIDDEN) + HIDDEN


def train_flops_per_token() -> int:
    """Matrix products and the causal half of attention, forward and twice that backward."""
    matrices = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE) + VOCAB * HIDDEN
    return 6 * matrices + 6 * LAYERS * 2 * HIDDEN * SEQUENCE // 2


CONTENDERS = {"mfa_train": mfa_train, "Hugging Face Llama": hugging_face, "litgpt": litgpt}
SETTINGS = (False, True)
"""Whether it is compiled."""


def rounds_of(name: str, compiled: bool) -> Iterator[float]:
    """Seconds of one round of steps after the other."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1), os.dup2(quiet, 2)
    logging.disable(logging.WARNING)
    rounds = CONTENDERS[name](compiled)
    while True:
        start = time.perf_counter()
        next(rounds)
        yield time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    entries = {(name, compiled): Contender(rounds_of, name, compiled) for name in CONTENDERS for compiled in SETTINGS}
    seconds: dict[tuple[str, bool], list[float]] = {entry: [] for entry in entries}
    for number in range(-2, arguments.rounds):  # two to warm up: compilation, first allocations
        for entry, contender in entries.items():
            taken = contender.turn()
            if number >= 0 and taken is not None:
                seconds[entry].append(taken)
    for contender in entries.values():
        contender.end()
    failures = {entry: contender.failure for entry, contender in entries.items() if contender.failure is not None}
    speeds = {
        entry: STEPS * BATCH * SEQUENCE / statistics.median(times)
        for entry, times in seconds.items()
        if entry not in failures
    }

    import torch

    from mfa_train.budget.peak import measured_flops

    peak = measured_flops(torch.bfloat16, seconds=2.0)
    result: dict[str, Any] = {"peak_gflops": peak / 1e9, "rounds": arguments.rounds, "contenders": {}}
    print(
        f"17M-parameter MHA decoder, bf16, sequence {SEQUENCE}, batch {BATCH}; {arguments.rounds} rounds of {STEPS} "
        f"steps in turn; matrix-product peak {peak / 1e9:.0f} GFLOP/s\n"
    )
    print(f"{'':20} {'eager':>8} {'compiled':>9}  {'of peak':>7}  {'mfa_train / it':>14}")
    best = {
        name: max(speeds[name, compiled] for compiled in SETTINGS if (name, compiled) in speeds)
        for name in CONTENDERS
        if any((name, compiled) in speeds for compiled in SETTINGS)
    }
    for name in CONTENDERS:
        eager, compiled = (speeds.get((name, compiled)) for compiled in SETTINGS)
        share = best[name] * train_flops_per_token() / peak if name in best else None
        ratio = best["mfa_train"] / best[name] if {name, "mfa_train"} <= set(best) else None
        print(
            f"{name:20} {shown(eager, ',.0f'):>8} {shown(compiled, ',.0f'):>9}  {shown(share, '.1%'):>7}  "
            f"{shown(ratio, '.2f'):>14}"
        )
        result["contenders"][name] = {"eager": eager, "compiled": compiled, "share_of_peak": share, "ratio": ratio}
    for (name, compiled), failure in failures.items():
        told = f"{name}, {'compiled' if compiled else 'eager'}: failed: {failure}"
        result.setdefault("failed", []).append(told)
        print(told)
    print(json.dumps(result))


def shown(figure: float | None, form: str) -> str:
    return "failed" if figure is None else format(figure, form)


if __name__ == "__main__":
    main()
