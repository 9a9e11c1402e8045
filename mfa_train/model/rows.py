"""Weights times the few rows of a decoded token: on a CPU by a compiled kernel (attention/kernels/rows.cpp).

torch multiplies one row at a half (float32) to a quarter (bfloat16) of the memory's bandwidth; the kernel reads a
weight as fast as a reduction does. What it gives up: results differ from torch's by rounding, as sums have another
order.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mfa_train.attention.kernels import compiled
from mfa_train.model.loss import LanguageModelHead

MOST_ROWS = 8
LEAST_WEIGHTS = 10**7
"""Smaller models lie in the CPU's cache, and save too little, 0.1 ns a weight and token, to repay the build."""


@contextlib.contextmanager
def few_rows(model: nn.Module) -> Iterator[None]:
    """While open, the weights of `model` meet up to `MOST_ROWS` rows in the kernel where no gradient is asked, it pays
    and there is a compiler; all else stays torch's."""
    hooked = [
        module
        for module in model.modules()
        if ((type(module) is nn.Linear and module.bias is None) or type(module) is LanguageModelHead)
        and _serves(module.weight)
        and "forward" not in vars(module)  # as where this is open already
    ]
    if sum(module.weight.numel() for module in hooked) < LEAST_WEIGHTS or compiled.library() is None:
        hooked = []
    try:
        for module in hooked:
            vars(module)["forward"] = _forward(module, module.forward)
        yield
    finally:
        for module in hooked:
            vars(module).pop("forward", None)


def _serves(weight: Tensor) -> bool:
    plain = weight.is_cpu and weight.dtype in (torch.float32, torch.bfloat16) and weight.is_contiguous()
    return plain and not hasattr(weight, "ds_id")  # which ZeRO 3 brings and takes away


def _forward(module: nn.Module, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(x: Tensor, *asked: Tensor | bool | None) -> Tensor:
        weight: Tensor = module.weight  # type: ignore[assignment]
        no_more = all(one is None or one is False for one in asked)  # of the head, than the logits
        few = x.numel() <= MOST_ROWS * weight.shape[1] and x.dtype == weight.dtype
        if not (few and no_more) or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return plain(x, *asked)
        return product(x, weight)

    return forward


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., dim) times weight (width, dim): (..., width) in x's type, summed in float32."""
    library = compiled.library()
    assert library is not None
    width, dim = weight.shape
    rows = x.float().contiguous()
    out = torch.empty(*x.shape[:-1], width, dtype=torch.float32)
    half, threads = weight.dtype == torch.bfloat16, torch.get_num_threads()
    library.rows_product(
        rows.data_ptr(), weight.data_ptr(), half, rows.numel() // dim, width, dim, threads, out.data_ptr()
    )
    return out.to(x.dtype)
