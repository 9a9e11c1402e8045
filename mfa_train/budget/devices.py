"""How many matrix-product FLOPs a second a device can do at best: what MFU divides by."""

import time

import torch

PEAK_BF16 = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "MI300X": 1307e12,
}
"""Dense bf16 FLOP/s from the vendors' data sheets, by a part of the device's name; the first match counts."""


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak FLOP/s of one device; None for a GPU not in the table, or in float32, for which the table has
    no entry. A CPU is measured, in about 0.2 seconds."""
    if device.type == "cpu":
        return measured_flops(dtype)
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16.items() if part in name and dtype == torch.bfloat16), None)


def measured_flops(dtype: torch.dtype, size: int = 1536, seconds: float = 0.2) -> float:
    """FLOP/s of the fastest of some square matrix products on this CPU."""
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    a @ b
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
