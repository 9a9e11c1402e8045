"""The attention kernel that a run would have on a plan's devices, and the share of their peak that it is assumed to
reach.

On a GPU matrix products outside attention are assumed at 40% of the peak, and scores and values with them where
flash-attn takes the heads. Beyond its 256 dimensions a kernel that is fused but not flash-attn's is taken to reach half
of that, and one that holds all scores at once an eighth: FlashAttention-2 is 1.7 to 3 times as fast as the kernels
before it, and three to ten times as fast as standard attention (arXiv 2307.08691, section 4.1, on an A100). On a CPU:
50%, and a sixth without tiles (attention/kernels/tiled.py).
"""

from dataclasses import dataclass

import torch

from mfa_train.attention.kernels.causal import FLASH_MAX_HEAD_DIM, planned_kernel
from mfa_train.budget.shape import layers_of, meta_model
from mfa_train.config import ModelConfig

PRODUCTS = {"cuda": 0.4, "cpu": 0.5}
"""Share of the peak of matrix products outside attention; assumed, by the device's type."""
WIDE, UNFUSED = 0.2, 0.05
"""Of scores and values on a GPU: fused, with heads wider than flash-attn takes; all scores at once."""
UNTILED = 1 / 6
"""Of scores and values on a CPU, all scores at once."""


@dataclass(frozen=True)
class Kernel:
    name: str
    """tiled | flash | fused | math, as `planned_kernel` says it."""
    widest: int
    """Dimensions of a head's query, key or value, whichever has most."""
    products: float
    """Assumed share of the peak of the matrix products around it."""
    scores: float
    """Its own."""


def kernel_of(
    model: ModelConfig, attention: dict, dtype: torch.dtype, device_type: str, queries: int, keys: int
) -> Kernel:
    """That of so many tokens' queries over so many keys, found by the shapes of one token's. Raises ConfigError where
    attention.kernel can't be."""
    with torch.device("meta"), torch.no_grad():
        one = meta_model(model, attention, layers=[0]).to(dtype)
        (layer,) = layers_of(one)
        x, positions = torch.empty(1, 1, model.hidden_size, dtype=dtype), one.model.rope(torch.zeros(1).long())
        q = layer.self_attn.query(x, positions)
        k, v = layer.self_attn.keys_values(*layer.self_attn.cache_entry(x, positions), positions=positions)
        name = planned_kernel(device_type, attention["kernel"], q, k, v, queries, keys, layer.self_attn.sinks)
    widest, products = max(q.shape[-1], v.shape[-1]), PRODUCTS[device_type]
    return Kernel(name, widest, products, _scores(name, widest, device_type))


def _scores(name: str, widest: int, device_type: str) -> float:
    if name == "math":
        return UNTILED if device_type == "cpu" else UNFUSED
    if device_type == "cuda" and widest > FLASH_MAX_HEAD_DIM:
        return WIDE
    return PRODUCTS[device_type]
