"""How weights start: a pure function of the seed, the parameter's name and the place in it.

Two models that differ in their attention therefore start from the same embeddings and feed-forwards, and a model starts
the same on any number of ranks, at any ZeRO stage. Norms start at one, MFA-KR's gates and sinks at zero.

    normal       every matrix normal(0, std)
    scaled       as normal, output projections of attention and feed-forward / sqrt(2·layers) (GPT-2)
    mfa          as normal, the feed-forward's output projection / sqrt(2·layer index), layers counted from one: the
                 choice of the MFA paper's authors, as far as public notes tell it
    zero_output  as normal, output projections zero (the TPA and MLRA papers)

`model.initialization.draw` says where the numbers come from:

    1  one generator for each parameter, which draws it whole
    2  one for each block of `BLOCK` of its values: any stretch is drawn alone, so a rank draws what it keeps

Both draw on the CPU in float32, whatever the device: another's generators give other numbers.
"""

import hashlib
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mfa_train.attention import Attention
from mfa_train.config import InitializationConfig
from mfa_train.parallel.parameters import first_value, whole_shape

Gather = Callable[[Tensor], AbstractContextManager]
BLOCK = 2**16
"""Values that one generator draws in draw 2. Always all of them, though fewer are kept: what torch makes of a
generator's numbers depends on how many are asked for."""


class InitialValues:
    """The initial values of a model's matrices, by stretches of them flattened: draw 2."""

    def __init__(self, model: nn.Module, config: InitializationConfig, seed: int, num_layers: int):
        self.config, self.seed, self.num_layers = config, seed, num_layers
        self.uniform_bounds = _uniform_bounds(model)
        self.shapes = {name: whole_shape(parameter) for name, parameter in model.named_parameters()}

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fills `out` (values,), on any device, with the values of the parameter `name` from `start` on. A vector is
        left as the model was constructed with it."""
        if len(self.shapes.get(name, ())) < 2:
            return
        block = torch.empty(BLOCK, dtype=torch.float32, device="cpu")
        stop = start + len(out)
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            generator = torch.Generator().manual_seed(_seed_of(f"{self.seed}/{name}/{number}"))
            _draw(block, generator, name, self.config, self.num_layers, self.uniform_bounds)
            first, last = max(start, number * BLOCK), min(stop, (number + 1) * BLOCK)
            out[first - start : last - start].copy_(block[first - number * BLOCK : last - number * BLOCK])


class EmptyWeights(TorchFunctionMode):
    """A context in which a model's matrices are made of zeros, in `dtype` on `device`, and no value is drawn: for those
    that are about to be set. Vectors start as the model says."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        super().__init__()
        self.made = {"dtype": dtype, "device": device}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is EMPTY:  # zeros that nobody has read or written take no memory of a CPU
            return ZEROS(*args, **self.made | {key: value for key, value in kwargs.items() if value is not None})
        if (
            getattr(function, "__module__", None) == "torch.nn.init"
            and (tensor := (*args, *kwargs.values())[0]).ndim > 1
        ):
            return tensor
        return function(*args, **kwargs)


EMPTY, ZEROS = torch.empty, torch.zeros
"""Torch's own: while it builds a model, ZeRO 3 has others in their place."""


@torch.no_grad()
def initialize(
    model: nn.Module,
    config: InitializationConfig,
    seed: int,
    num_layers: int,
    gather: Gather = lambda parameter: nullcontext(),
) -> None:
    """Fills every matrix of `model`, whole; of experts that ranks share out what it has. `gather` makes a sharded
    parameter whole while it is written."""
    uniform_bounds, by_stretches = _uniform_bounds(model), InitialValues(model, config, seed, num_layers)
    for name, parameter in model.named_parameters():
        with gather(parameter):
            if parameter.ndim < 2:
                continue
            first = first_value(parameter)
            if config.draw == 1:
                whole = torch.empty(whole_shape(parameter), dtype=torch.float32)
                generator = torch.Generator().manual_seed(_seed_of(f"{seed}/{name}"))
                _draw(whole, generator, name, config, num_layers, uniform_bounds)
                values = whole.view(-1)[first : first + parameter.numel()].view(parameter.shape)
            else:
                values = torch.empty(parameter.shape, dtype=torch.float32)
                by_stretches.read(name, first, values.view(-1))
            parameter.copy_(values)


def _draw(
    values: Tensor,
    generator: torch.Generator,
    name: str,
    config: InitializationConfig,
    num_layers: int,
    uniform_bounds: dict[str, float],
) -> None:
    if name in uniform_bounds:
        values.uniform_(-uniform_bounds[name], uniform_bounds[name], generator=generator)
    else:
        values.normal_(0.0, _std(config, name, num_layers), generator=generator)


def _uniform_bounds(model: nn.Module) -> dict[str, float]:
    return {
        f"{prefix}.{name}": bound
        for prefix, module in model.named_modules()
        if isinstance(module, Attention)
        for name, bound in module.uniform_bounds().items()
    }


def _std(config: InitializationConfig, name: str, num_layers: int) -> float:
    output = re.search(r"layers\.(\d+)\..*\.(o_proj|o_b_proj|down_proj)\.weight$", name)
    if output and config.method == "zero_output":
        return 0.0
    if output and config.method == "scaled":
        return config.std / math.sqrt(2 * num_layers)
    if output and config.method == "mfa" and output[2] == "down_proj":
        return config.std / math.sqrt(2 * (int(output[1]) + 1))
    return config.std


def _seed_of(words: str) -> int:
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=7).digest(), "little")
