"""What a mixture of experts costs beside its dense twin, and beside transformers' own mixture of the same shape.

`model=tiny` (6 layers, hidden 384) with MHA, a vocabulary of 8192, 8,192 tokens a step. The mixture has 8 times the
dense feed-forward's parameters at its active size: 32 experts of 256, of which a token meets 4, where the dense one is
1024 wide. Both are trained by this trainer's own steps (DeepSpeed, ZeRO 1, AdamW, gradient clipping); transformers'
Mixtral with the same widths in a plain loop with its fused AdamW, once with each of its implementations of experts but
batched_mm, which copies a matrix for each choice of a token (25 GiB a layer here). All stand in one process and take
turns, a step each. Prints each one's median seconds a step, by the clock and of CPU time, and the median over rounds of
the ratios. The last line is JSON.

    .venv/bin/python benchmarks/experts.py [--rounds 9] [--precision bf16] [--profile mixture]

Where others use the cores too, CPU time says more than the clock: OMP_NUM_THREADS=1, or threads that wait count.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

VOCAB, SEQUENCE, BATCH = 8192, 512, 16
EXPERTS, PER_TOKEN, WIDTH = 32, 4, 256
MIXTURE = [
    *("feed_forward=experts", "model.feed_forward.n_shared_experts=0"),
    f"model.feed_forward.n_routed_experts={EXPERTS}",
    f"model.feed_forward.num_experts_per_tok={PER_TOKEN}",
    f"model.feed_forward.moe_intermediate_size={WIDTH}",
]
CLIP, BETAS, LEARNING_RATE, WEIGHT_DECAY = 1.0, (0.9, 0.95), 1e-3, 0.1
IMPLEMENTATIONS = ("eager", "grouped_mm")


def ours(folder: Path, precision: str, *overrides: str) -> Callable[[], Any]:
    """Takes a step of a run, as `training.steps.step` does."""
    from mfa_train import config as configs
    from mfa_train.data.reading.batches import Batches
    from mfa_train.data.reading.documents import ModelInputs
    from mfa_train.data.shards.cache import ShardCache
    from mfa_train.data.shards.megatron_form import write_shard
    from mfa_train.data.shards.shard import Shard
    from mfa_train.data.shards.shards import Shards
    from mfa_train.data.shards.store import ShardStore
    from mfa_train.training.processes.ranks import join
    from mfa_train.training.steps.engine import build_engine
    from mfa_train.training.steps.guard import Guard
    from mfa_train.training.steps.state import Progress, TrainingState
    from mfa_train.training.steps.step import TrainingStep

    shape = ["attention=mha", "model=tiny", f"model.vocab_size={VOCAB}", f"training.batch_size={BATCH}", *overrides]
    config = configs.load([*shape, f"precision={precision}", "training.steps=1000000", "tracking=none"])
    write_shard(folder / "tokens", [np.random.default_rng(0).integers(0, VOCAB, 2**20)], VOCAB)
    shards = Shards(ShardStore(folder, ShardCache(folder, 0)), [Shard("tokens", 2**20, "uint16")], VOCAB)
    corpus = SimpleNamespace(train=shards, tokenizer=SimpleNamespace(sha256=""), identity=dict)
    batches = Batches({"random": corpus}, config.data, SEQUENCE, 0, BATCH)  # type: ignore[dict-item]  # all it asks
    ranks = join()
    engine = build_engine(config, ranks, {"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
    state = TrainingState(Progress(), Guard(config.guard, print))
    return TrainingStep(engine, config, ranks, batches, ModelInputs(ranks.device, separator=None), state).take


def theirs(precision: str, implementation: str) -> Callable[[], Any]:
    """Takes a step of transformers' Mixtral."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=64,
        intermediate_size=WIDTH,
        num_local_experts=EXPERTS,
        num_experts_per_tok=PER_TOKEN,
        vocab_size=VOCAB,
        max_position_embeddings=SEQUENCE,
        use_cache=False,
        experts_implementation=implementation,  # type: ignore[call-arg]  # of every config
    )
    model = MixtralForCausalLM(config)
    assert model.config._experts_implementation == implementation
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        tokens = torch.randint(0, VOCAB, (BATCH, SEQUENCE), generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the contenders")
    parser.add_argument("--profile", metavar="NAME", help="where the time of one contender's step goes, and no race")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    contenders: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        makers: dict[str, Callable[[], Callable[[], Any]]] = {
            "dense": lambda: ours(folder, arguments.precision),
            "mixture": lambda: ours(folder, arguments.precision, *MIXTURE),
        }
        for name in IMPLEMENTATIONS:
            makers[f"transformers {name}"] = lambda name=name: theirs(arguments.precision, name)  # type: ignore[misc]
        wanted = [arguments.profile] if arguments.profile else arguments.only or list(makers)
        for name in wanted:
            try:
                (step := makers[name]())()
                contenders[name] = step
            except (RuntimeError, NotImplementedError, AssertionError) as reason:
                print(f"{name}: left out: {type(reason).__name__} {str(reason).splitlines()[0]}")
        if arguments.profile:
            profiled(contenders[arguments.profile])
            return
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for number in range(-1, arguments.rounds):
            for name, step in contenders.items():
                start = time.perf_counter(), time.process_time()
                step()
                if number >= 0:
                    seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    print(json.dumps(told(seconds, arguments)))


def told(seconds: dict[str, list[tuple[float, float]]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints the table, and gives it."""
    clocks = {"wall": 0, "cpu": 1}
    result: dict[str, Any] = {"precision": arguments.precision, "threads": torch.get_num_threads(), "steps": {}}
    print(f"{'':24} {'seconds':>8} {'CPU':>8}   a step of {BATCH * SEQUENCE:,} tokens, {arguments.precision}")
    for name, taken in seconds.items():
        median = {clock: statistics.median(one[at] for one in taken) for clock, at in clocks.items()}
        result["steps"][name] = median
        print(f"{name:24} {median['wall']:8.3f} {median['cpu']:8.3f}")
    pairs = {("mixture", "dense")} | {(name, "mixture") for name in seconds if name.startswith("transformers")}
    for above, below in sorted(pairs):
        if {above, below} <= set(seconds):
            ratio = {
                clock: statistics.median(a[at] / b[at] for a, b in zip(seconds[above], seconds[below]))
                for clock, at in clocks.items()
            }
            result[f"{above} / {below}"] = ratio
            print(f"{above} / {below}: {ratio['wall']:.2f} by the clock, {ratio['cpu']:.2f} of CPU time")
    return result


def profiled(step: Callable[[], Any]) -> None:
    """Prints where a step's time goes."""
    with torch.profiler.profile() as profile:
        step()
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=60))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
