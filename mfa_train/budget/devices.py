"""What a device holds, what its vendor says that it multiplies at best, how fast it sends: what a plan fits into."""

import os
from dataclasses import dataclass, replace

import torch

from mfa_train.errors import ConfigError, did_you_mean

PRECISIONS = {torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Device:
    name: str
    """As `cluster.device` says it."""
    type: str
    """cuda | cpu, as torch says it."""
    memory_bytes: int
    peak_bf16: float | None
    """Dense matrix-product FLOP/s; None: unknown."""
    label: str = ""
    """Part of the name by which the driver knows it; the first match counts."""
    node_link: float | None = None
    """Bytes a second that it sends to the other devices of its node; None: unknown."""
    network: float | None = None
    """Its share of the node's network: bytes a second that it sends to other nodes, in its vendor's own machine."""


KNOWN = (
    # A100: NVLink 3, 600 GB/s both ways together; DGX A100: eight HDR cards of 200 Gbit/s for eight devices.
    Device("a100-40gb", "cuda", 40 * 10**9, 312e12, "A100-SXM4-40GB", 300e9, 25e9),
    Device("a100-80gb", "cuda", 80 * 10**9, 312e12, "A100", 300e9, 25e9),
    # PCIe 5, 128 GB/s both ways together (the bridge's 600 GB/s join two cards alone); a card of 200 Gbit/s for each.
    Device("h100-pcie-80gb", "cuda", 80 * 10**9, 756e12, "H100 PCIe", 64e9, 25e9),
    # H100, H200: NVLink 4, 900 GB/s both ways together; DGX H100, H200: eight NDR cards of 400 Gbit/s for eight.
    Device("h100-80gb", "cuda", 80 * 10**9, 989e12, "H100", 450e9, 50e9),
    Device("h200-141gb", "cuda", 141 * 10**9, 989e12, "H200", 450e9, 50e9),
    # B200: NVLink 5, 1.8 TB/s both ways together; DGX B200: as DGX H100.
    Device("b200-180gb", "cuda", 180 * 10**9, 2250e12, "B200", 900e9, 50e9),
    # MI300X: seven Infinity Fabric links of 128 GB/s both ways, one to each other device; eight cards of 400 Gbit/s.
    Device("mi300x-192gb", "cuda", 192 * 10**9, 1307e12, "MI300X", 448e9, 50e9),
)
"""Memory as the vendors name it (10^9 bytes a GB), dense bf16 peak and links, from their data sheets; links count one
way. No entry for fp32."""


def planned_device(name: str, ranks_per_node: int, local_rank: int = 0) -> Device:
    """What `cluster.device=name` means: a device of the table, this machine's CPU, or (auto) whatever is here; of
    several GPUs the one of the node's rank `local_rank`.

    Raises ConfigError for a name that is in no table.
    """
    if name == "auto" and torch.cuda.is_available():
        return _gpu_here(local_rank)
    if name in ("auto", "cpu"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device("cpu", "cpu", memory // ranks_per_node, None)  # the ranks share the machine's
    known = {device.name: device for device in KNOWN}
    if name not in known:
        if name.lower() in ("cuda", "gpu"):
            raise ConfigError(f"cluster.device={name}: expected auto, cpu, or which GPU it is: {', '.join(known)}")
        raise ConfigError(
            f"cluster.device={name}: no such device.{did_you_mean(name.lower(), [*known, 'auto', 'cpu'])}"
        )
    return known[name]


def _gpu_here(number: int) -> Device:
    """Its memory as the driver tells it."""
    properties = torch.cuda.get_device_properties(number)
    named = next((known for known in KNOWN if known.label in properties.name), None)
    if named is None:
        return Device(properties.name, "cuda", properties.total_memory, None)
    return replace(named, memory_bytes=properties.total_memory)


def resolve_precision(precision: str, device: Device) -> torch.dtype:
    """What `precision` means on a device. auto: bfloat16 where the hardware multiplies it."""
    if precision == "auto":
        fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if fast else "fp32"
    return next(dtype for dtype, name in PRECISIONS.items() if name == precision)
