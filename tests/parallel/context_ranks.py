"""Sequences that ranks share, held against one process that has them whole: logits, losses and the gradient of every
parameter, and the bytes that a pass receives.

    torchrun --nproc-per-node 4 tests/parallel/context_ranks.py [ATTENTION ...]

Each process exits 0 where, for every attention (all by default), 2 and 4 ranks of a sequence, with and without
document masks, all that is within TOLERANCE.
"""

import sys

import numpy as np
import torch
import torch.distributed as dist

from mfa_train.attention import variants
from mfa_train.data.reading.documents import ModelInputs
from mfa_train.model.decoder import LanguageModel
from mfa_train.parallel.groups import WHOLE_SEQUENCES
from mfa_train.parallel.stretches import local
from mfa_train.training.processes.groups import join_context_group
from mfa_train.training.processes.ranks import join
from tests.conftest import _small_model

TOKENS, BATCH, SEPARATOR, TOLERANCE = 48, 2, 5, 1e-5
RECOMPUTED = "full"
ranks = join()
received: list[int] = []


def counting(real):
    def gather(into, x, **options):
        received.append(into.nbytes - x.nbytes)
        return real(into, x, **options)

    return gather


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
    found = {name: ranks.sum(one.grad.clone()) / ranks.world_size for name, one in model.named_parameters()}
    return ranks.sum(loss.detach().clone()) / ranks.world_size, found


def logits(model: LanguageModel, inputs_of: ModelInputs) -> torch.Tensor:
    tokens, _, beside = inputs_of(windows())
    with torch.no_grad():
        return model(tokens, **beside)


def check(attention: str, extra: tuple[str, ...] = ()) -> dict[str, float]:
    differences: dict[str, float] = {}
    for separator in (None, SEPARATOR):
        model = _small_model(attention, extra, 0.15)
        whole = ModelInputs(ranks.device, separator)
        expected_loss, expected = gradients(model, whole)
        expected_logits = logits(model, whole)
        entry = sum(
            one.numel()
            for one in model.model.layers[0].self_attn.cache_entry(
                torch.zeros(1, 1, 64), model.model.rope(torch.zeros(1, dtype=torch.long))
            )
        )
        for size in (2, 4):
            sequences = join_context_group(size, ranks)
            shared = ModelInputs(ranks.device, separator, sequences)
            for recomputed in ("none", RECOMPUTED):
                model.model.activation_checkpointing = recomputed
                received.clear()
                loss, found = gradients(model, shared)
                passes = 1 if recomputed == "none" else 2
                bytes_there = entry * 4 * BATCH * TOKENS * 2 * (size - 1) // size * passes
                assert sum(received) == bytes_there, (attention, size, recomputed, sum(received), bytes_there)
                worst = max(float((found[name] - one).abs().max() / one.abs().max()) for name, one in expected.items())
                off = {
                    "loss": float((loss - expected_loss).abs()),
                    "gradients": worst,
                    "logits": float((logits(model, shared) - local(expected_logits, sequences)).abs().max()),
                }
                assert max(off.values()) < TOLERANCE, (attention, size, separator, recomputed, off)
                differences = {key: max(value, differences.get(key, 0.0)) for key, value in off.items()}
            model.model.activation_checkpointing = "none"
    return differences


if __name__ == "__main__":
    dist.all_gather_into_tensor = counting(dist.all_gather_into_tensor)
    assert WHOLE_SEQUENCES.size == 1
    for attention in sys.argv[1:] or sorted(variants()):
        told = check(attention)
        ranks.say(f"{attention}: " + ", ".join(f"{kind} {value:.0e}" for kind, value in told.items()))
    sys.exit(0)
