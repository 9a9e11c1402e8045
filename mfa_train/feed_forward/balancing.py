"""What keeps experts equally busy, and counts how busy they were.

Losses are of each sequence by itself, so they are a function of the samples alone: of no micro batch, and no number of
ranks. The bias moves by the load of a whole step (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
"""

import torch
import torch.distributed as dist
from torch import Tensor

from mfa_train.feed_forward.router import Chosen
from mfa_train.parallel.groups import ContextGroup


def tokens_of_experts(experts: Tensor, count: int) -> Tensor:
    """How often each of `count` experts stands in `experts` (rows, choices): (rows, count), whole numbers. Nothing
    waits for the device."""
    found = torch.zeros((len(experts), count), dtype=torch.long, device=experts.device)
    return found.scatter_add_(1, experts, torch.ones_like(experts))


@torch._disable_dynamo
def of_whole(sequences: ContextGroup, load: Tensor) -> Tensor:
    """`load` (batch, experts) of this rank's tokens as the mean over the ranks that share the sequences. What an
    auxiliary loss differentiates is linear in tokens, so their own probabilities are all that a rank has to know
    beside."""
    if sequences.size == 1:
        return load
    summed = load.clone()
    work = dist.all_reduce(summed, group=sequences.handle, async_op=True)
    sequences.waits(work.wait)
    return summed / sequences.size


def auxiliary_loss(chosen: Chosen, load: Tensor) -> Tensor:
    """DeepSeek-V3's loss of each sequence (equations 17 to 20), the mean over them: 1 where all experts are equally
    likely. `load` (batch, experts): tokens of each."""
    count = chosen.scores.shape[-1]
    share = chosen.scores / (chosen.scores.sum(dim=-1, keepdim=True) + 1e-20)
    busy = load.float() * (count / chosen.experts[0].numel())
    return (busy * share.mean(dim=1)).sum(dim=-1).mean()


def z_loss(logits: Tensor) -> Tensor:
    """The mean over tokens of (log-sum-exp of the router's logits)² (ST-MoE, arXiv 2202.08906, equation 5)."""
    return logits.logsumexp(dim=-1).square().mean()


def entropy(scores: Tensor) -> Tensor:
    """Of the router's probabilities, in nats, the mean over tokens."""
    share = scores.detach() / (scores.detach().sum(dim=-1, keepdim=True) + 1e-20)
    return torch.special.entr(share).sum(dim=-1).mean()


@torch.no_grad()
def move_bias(bias: Tensor, load: Tensor, speed: float) -> None:
    """Makes experts with less than the mean `load` (experts,), of a whole step, likelier to be chosen, the others
    less: by `speed`."""
    load = load.double()
    bias.add_(torch.sign(load.mean() - load).to(bias.dtype), alpha=speed)


def capacity(choices: int, count: int, factor: float) -> int:
    """Of a sequence's `choices` the most that one of `count` experts takes: `factor` times its equal share."""
    return -int(-factor * choices // count)


def dropped(load: Tensor, choices: int, factor: float | None) -> Tensor:
    """The share of all choices that is beyond the experts' capacity, (), float32. `load` (batch, experts), of as many
    `choices` in each sequence."""
    if factor is None:
        return torch.zeros((), device=load.device)
    beyond = (load - capacity(choices, load.shape[1], factor)).clamp(min=0)
    return beyond.sum() / (len(load) * choices)


def within_capacity(experts: Tensor, load: Tensor, factor: float) -> Tensor:
    """Which of the choices `experts` (batch, tokens, choices) an expert takes, the same shape: of each sequence the
    first `factor` times its equal share, in the order of the tokens. `load` (batch, experts): choices of each."""
    choices = experts.flatten(1)
    order = choices.argsort(dim=1, stable=True)
    first = (load.cumsum(dim=1) - load).gather(1, choices.gather(1, order))
    before = torch.arange(choices.shape[1], device=choices.device) - first
    taken = before < capacity(choices.shape[1], load.shape[1], factor)
    return torch.empty_like(taken).scatter_(1, order, taken).view_as(experts)
