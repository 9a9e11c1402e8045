"""Sequences that ranks share, held against one process that has them whole: logits, losses and the gradient of every
parameter, and the bytes that a pass receives.

    torchrun --nproc-per-node 4 tests/parallel/context_ranks.py [ATTENTION ...]

"sinks" is MHA with a sink in each head. Each process exits 0 where, for every attention (all by default), 2 and 4 ranks
of a sequence, by entries and, where they divide the heads, by heads, with and without document masks, all that is
within TOLERANCE, where the ranks' FLOPs are within 2% of each other, and where gradients in bf16 are about as exact of
four ranks as of one process.
"""

import copy
import sys
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from mfa_train.attention import variants
from mfa_train.data.reading.documents import ModelInputs
from mfa_train.model.decoder import LanguageModel
from mfa_train.parallel.stretches import Gathering, local
from mfa_train.training.processes.groups import join_context_group
from mfa_train.training.processes.ranks import join
from mfa_train.training.steps.engine import import_deepspeed
from tests.conftest import _small_model

TOKENS, BATCH, SEPARATOR, TOLERANCE = 48, 2, 5, 1e-5
FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ranks = join()
received: list[int] = []
MORE_HEADS = {"gqa": ("model.num_attention_heads=8", "model.num_key_value_heads=4")}
"""So that four ranks divide them."""


def counting_gathers(real):
    def gather(into, x, **options):
        received.append(into.nbytes - x.nbytes)
        return real(into, x, **options)

    return gather


def counting_exchanges(real):
    def exchange(output, input, *, group, **options):
        received.append(output.nbytes - output.nbytes // dist.get_world_size(group))
        return real(output, input, group=group, **options)

    return exchange


def scores_and_values(q, k, v, dropout_p=0.0, is_causal=False, **_) -> int:
    """FLOPs of torch's kernel for CPUs, which its counter does not know; of causal ones those that are not hidden."""
    batch, heads, queries, dim = q
    pairs = queries * k[2] - (queries * (queries - 1) // 2 if is_causal else 0)
    return 2 * batch * heads * pairs * (dim + v[3])


class Widths(NamedTuple):
    """Values of one token."""

    entry: int
    by_heads: int
    heads: tuple[int, int]
    """Of queries, and of keys and values."""


def widths_of(model: LanguageModel) -> Widths:
    layer, of_first = model.model.layers[0].self_attn, model.model.rope(torch.zeros(1, dtype=torch.long))
    q, entry = (make(torch.zeros(1, 1, 64), of_first) for make in (layer.query, layer.cache_entry))
    k, v = layer.keys_values(*entry, positions=of_first)
    by_heads = q.numel() + k.numel() + v.numel() + q.shape[2] * v.shape[3]
    return Widths(sum(one.numel() for one in entry), by_heads, (q.shape[2], k.shape[2]))


def received_by(way: str, widths: Widths, size: int, passes: int) -> int:
    """Bytes that a rank receives of the batch: of entries in forward passes, by heads in the backward pass too."""
    values = widths.entry * passes if way == "entries" else widths.by_heads * (passes + 1) // size
    return 2 * values * 4 * BATCH * TOKENS * (size - 1) // size


def windows() -> np.ndarray:
    """With documents that end anywhere, one longer than any stretch."""
    drawn = np.random.default_rng(3).integers(6, 199, (BATCH, TOKENS + 1))
    drawn[0, [7, 8, 20]] = SEPARATOR
    drawn[1, [1, 40]] = SEPARATOR
    return drawn


def gradients(model: LanguageModel, inputs_of: ModelInputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The mean loss over all tokens, and each parameter's gradient of it, the mean over all ranks."""
    tokens, targets, beside = inputs_of(windows())
    model.zero_grad()
    loss = model(tokens, targets, **beside)
    loss.backward()
    found = {name: ranks.sum(one.grad.float()) / ranks.world_size for name, one in model.named_parameters()}
    return ranks.sum(loss.detach().clone()) / ranks.world_size, found


def logits(model: LanguageModel, inputs_of: ModelInputs) -> torch.Tensor:
    tokens, _, beside = inputs_of(windows())
    with torch.no_grad():
        return model(tokens, **beside)


def check_bf16(model: LanguageModel) -> float:
    """By entries, of four ranks in bf16: each parameter's gradient is about as far from float32's as one process's in
    bf16 is (how many times as far at most), and what the ranks have of an entry's gradient is summed in float32."""
    sequences = join_context_group(4, ranks)
    whole, shared = ModelInputs(ranks.device, None), ModelInputs(ranks.device, None, sequences)
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    exact, of_one, of_four = (gradients(*given)[1] for given in ((model, whole), (rounded, whole), (rounded, shared)))
    ratios = {name: float((of_four[name] - one).norm() / (of_one[name] - one).norm()) for name, one in exact.items()}
    assert max(ratios.values()) < 1.6, ratios

    drawn = torch.rand(4, BATCH, TOKENS, 8, generator=torch.Generator().manual_seed(5)).add(1).bfloat16()
    x = torch.zeros(BATCH, TOKENS // 4, 8, dtype=torch.bfloat16, requires_grad=True)
    gathering = Gathering(sequences)
    gathering.arrive(gathering.leave(x)).backward(drawn[sequences.rank])
    assert torch.equal(x.grad, local(drawn.float().sum(0).bfloat16(), sequences))
    return max(ratios.values())


def check(attention: str, sinks: bool = False) -> dict[str, dict[str, float]]:
    """What is off at most, by way."""
    differences: dict[str, dict[str, float]] = {}
    model = _small_model(attention, MORE_HEADS.get(attention, ()), 0.15)
    if sinks:
        for layer in model.model.layers:
            layer.self_attn.sinks = torch.nn.Parameter(torch.linspace(-1, 1, layer.self_attn.num_attention_heads))
    widths = widths_of(model)
    for separator in (None, SEPARATOR):
        whole = ModelInputs(ranks.device, separator)
        expected_loss, expected = gradients(model, whole)
        expected_logits = logits(model, whole)
        for size in (2, 4):
            divided = all(count % size == 0 for count in widths.heads)
            for way in ("entries", "heads") if divided else ("entries",):
                sequences = join_context_group(size, ranks, way)
                shared = ModelInputs(ranks.device, separator, sequences)
                for recomputed in ("none", "full"):
                    model.model.activation_checkpointing = recomputed
                    received.clear()
                    loss, found = gradients(model, shared)
                    bytes_there = received_by(way, widths, size, 1 if recomputed == "none" else 2)
                    told = (attention, way, size, separator, recomputed)
                    assert sum(received) == bytes_there, (told, sum(received), bytes_there)
                    off = {
                        "loss": float((loss - expected_loss).abs()),
                        "gradients": max(
                            float((found[name] - one).abs().max() / one.abs().max()) for name, one in expected.items()
                        ),
                        "logits": float((logits(model, shared) - local(expected_logits, sequences)).abs().max()),
                    }
                    assert max(off.values()) < TOLERANCE, (told, off)
                    before = differences.setdefault(way, off)
                    differences[way] = {kind: max(value, before[kind]) for kind, value in off.items()}
                model.model.activation_checkpointing = "none"
                if separator is None:
                    with FlopCounterMode(display=False, custom_mapping={FUSED: scores_and_values}) as counter:
                        logits(model, shared)
                    flops = ranks.gather_objects(counter.get_total_flops())
                    assert max(flops) <= 1.02 * min(flops), (attention, way, size, flops)
    return differences


if __name__ == "__main__":
    import_deepspeed().init_distributed(dist_init_required=False, verbose=False)
    dist.all_gather_single = counting_gathers(dist.all_gather_single)
    dist.all_to_all_single = counting_exchanges(dist.all_to_all_single)
    asked = sys.argv[1:] or [*sorted(variants()), "sinks"]
    for attention in asked:
        told = check("mha", sinks=True) if attention == "sinks" else check(attention)
        if attention != "sinks":
            of_one = check_bf16(_small_model(attention, (), 0.15))
            ranks.say(f"{attention} in bf16: gradients at most {of_one:.2f} times as far off as one process's")
        for way, off in told.items():
            ranks.say(f"{attention} by {way}: " + ", ".join(f"{kind} {value:.0e}" for kind, value in off.items()))
    sys.exit(0)
