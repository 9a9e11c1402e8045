"""How weights start: a pure function of the seed and the parameter's name.

Two models that differ in their attention therefore start from the same embeddings and feed-forwards, and a model starts
the same on any number of ranks, at any ZeRO stage. Norms start at one, MFA-KR's gates and sinks at zero.

    normal       every matrix normal(0, std)
    scaled       as normal, output projections of attention and feed-forward / sqrt(2·layers) (GPT-2)
    mfa          as normal, the feed-forward's output projection / sqrt(2·layer index), layers counted from one: the
                 choice of the MFA paper's authors, as far as public notes tell it
    zero_output  as normal, output projections zero (the TPA and MLRA papers)
"""

import hashlib
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mfa_train.attention import Attention
from mfa_train.config import InitializationConfig

Gather = Callable[[Tensor], AbstractContextManager]


def initialize(
    model: nn.Module,
    config: InitializationConfig,
    seed: int,
    num_layers: int,
    gather: Gather = lambda parameter: nullcontext(),
) -> None:
    """Fills every matrix of `model`. `gather` makes a sharded parameter whole while it is written."""
    uniform_bounds = {
        f"{prefix}.{name}": bound
        for prefix, module in model.named_modules()
        if isinstance(module, Attention)
        for name, bound in module.uniform_bounds().items()
    }
    for name, parameter in model.named_parameters():
        with gather(parameter), torch.no_grad():
            if parameter.ndim < 2:
                continue
            generator = torch.Generator().manual_seed(_parameter_seed(seed, name))
            values = torch.empty(parameter.shape, dtype=torch.float32)
            if name in uniform_bounds:
                values.uniform_(-uniform_bounds[name], uniform_bounds[name], generator=generator)
            else:
                values.normal_(0.0, _std(config, name, num_layers), generator=generator)
            parameter.copy_(values)


def _std(config: InitializationConfig, name: str, num_layers: int) -> float:
    output = re.search(r"layers\.(\d+)\..*\.(o_proj|o_b_proj|down_proj)\.weight$", name)
    if output and config.method == "zero_output":
        return 0.0
    if output and config.method == "scaled":
        return config.std / math.sqrt(2 * num_layers)
    if output and config.method == "mfa" and output[2] == "down_proj":
        return config.std / math.sqrt(2 * (int(output[1]) + 1))
    return config.std


def _parameter_seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest(), "little")
