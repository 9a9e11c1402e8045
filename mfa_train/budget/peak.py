"""The most FLOP/s of a device, and a run's share of it (MFU).

A GPU's peak is its vendor's. A CPU's is measured: matrix products of several sizes, small enough that some run between
two turns of whatever else the machine does, in bursts at different moments, and the best of all counts. What it gives
up: on a machine that is busy in every burst the peak may be that of one core. Where a run does more than its peak, the
peak is wrong: that is told, and no share of it is.
"""

import time
from collections.abc import Callable

import torch

from mfa_train.budget.devices import Device

SIZES = (192, 384, 768, 1536)
BURST_SECONDS = 0.06
BURSTS = 8
"""In one process: two of a plan, one before the first step, the others at the first records."""
_bursts: dict[torch.dtype, list[float]] = {}


def peak_flops(device: Device, dtype: torch.dtype) -> float | None:
    """Peak FLOP/s of one device; None where the table has none. A CPU is measured again each time, up to BURSTS times,
    and the best so far is given."""
    if device.type == "cpu":
        bursts = _bursts.setdefault(dtype, [])
        if len(bursts) < BURSTS:
            bursts.append(measured_flops(dtype))
        return max(bursts)
    return device.peak_bf16 if dtype == torch.bfloat16 else None


def measured_flops(dtype: torch.dtype, seconds: float = BURST_SECONDS) -> float:
    """FLOP/s of the fastest of some square matrix products on this CPU, by all threads and by one: where others take
    turns on its cores, threads that wait for each other can be a hundred times slower than one alone. No random
    generator is touched."""
    threads, best = torch.get_num_threads(), 0.0
    counts = sorted({1, threads})
    try:
        for count in counts:
            torch.set_num_threads(count)
            best = max(best, _fastest(dtype, seconds / len(counts)))
    finally:
        torch.set_num_threads(threads)
    return best


def _fastest(dtype: torch.dtype, seconds: float) -> float:
    """A size that takes too long for several goes is left out: bfloat16 without the hardware for it is a hundred times
    slower."""
    end, best, taken = time.perf_counter() + seconds, 0.0, 0.0
    operands: list[torch.Tensor] = []
    while True:
        if len(operands) < len(SIZES) and 8 * taken < seconds / 4:
            operands.append(torch.full((SIZES[len(operands)],) * 2, 0.5, dtype=dtype))
        for a in operands:
            start = time.perf_counter()
            a @ a
            taken = time.perf_counter() - start
            best = max(best, 2 * len(a) ** 3 / taken)
            if start > end:
                return best


class Peak:
    """Of one rank's device. `say` is told, once, where the peak cannot be true."""

    def __init__(self, device: Device, dtype: torch.dtype, say: Callable[[str], None]):
        self.device, self.dtype, self.say, self.told = device, dtype, say, False
        self.flops = peak_flops(device, dtype)
        self.most = 0.0
        """FLOP/s of the run at its best so far."""

    def share(self, flops: float) -> float | None:
        """What share of the peak `flops` a second are: above 0 and at most 1; None where the peak is unknown, or proved
        too low by this run. A CPU is measured anew: call it between steps."""
        if self.flops is None:
            return None
        self.flops = max(self.flops, peak_flops(self.device, self.dtype) or 0.0)
        self.most = max(self.most, flops)
        if self.most <= self.flops:
            return flops / self.flops or None
        if not self.told:
            self.say(
                f"warning: mfu is left out: the run does {self.most / 1e9:,.4g} GFLOP/s on each {self.device.name}, "
                f"more than its peak of {self.flops / 1e9:,.4g}, which is wrong"
                + (" (measured while the machine was busy?)" if self.device.type == "cpu" else "")
            )
        self.told = True
        return None
