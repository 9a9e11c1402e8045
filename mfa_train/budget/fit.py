"""Whether a run fits into its devices, at every ZeRO stage, and the smallest change that makes it fit."""

import functools
from dataclasses import dataclass, replace

from mfa_train.budget.activations import Pass, activation_peak
from mfa_train.budget.devices import Device
from mfa_train.budget.memory import RESERVE, States, model_states
from mfa_train.budget.shape import Shape
from mfa_train.config import Config


@dataclass(frozen=True)
class Setting:
    """What decides a run's memory beside its model, and may be changed without changing its curve."""

    zero: int
    ranks: int
    micro_batch: int
    checkpointing: bool
    offload: str

    def changes_from(self, other: "Setting") -> list[str]:
        """As overrides to type."""
        told = {
            "zero": f"zero={self.zero}",
            "ranks": f"cluster.nodes=… cluster.devices_per_node=… with {self.ranks} devices",
            "micro_batch": f"training.micro_batch_size={self.micro_batch}",
            "checkpointing": f"training.activation_checkpointing={str(self.checkpointing).lower()}",
            "offload": f"offload={self.offload}",
        }
        return [text for key, text in told.items() if getattr(self, key) != getattr(other, key)]


class Fit:
    """The memory of one config's runs on one device, by setting."""

    def __init__(self, config: Config, shape: Shape, device: Device, dtype, ranks: int):
        self.shape, self.device, self.dtype = shape, device, dtype
        self.setting = Setting(config.zero, ranks, config.training.micro_batch(ranks),
                               config.training.activation_checkpointing, config.offload)
        self.batch_size = config.training.batch_size
        self.pass_ = Pass(config.model, tuple(config.attention.items()), self.setting.micro_batch,
                          config.training.sequence_length, dtype, device.type)
        self.usable_bytes = int(device.memory_bytes * (1 - RESERVE))

    @functools.cache
    def activations(self, micro_batch: int, checkpointing: bool) -> int:
        return activation_peak(replace(self.pass_, micro_batch=micro_batch), checkpointing)

    def states(self, setting: Setting) -> States:
        return model_states(self.shape.parameter_sizes, self.dtype, setting.zero, setting.ranks, setting.offload)

    def total(self, setting: Setting) -> int:
        """Bytes on one device."""
        return self.states(setting).total + self.activations(setting.micro_batch, setting.checkpointing)

    def fits(self, setting: Setting) -> bool:
        return self.total(setting) <= self.usable_bytes

    def smallest_change(self) -> Setting | None:
        """The first of these that fits: one change that costs little time, then more of them, then offloading, then more
        devices. None where not even 16,384 devices would do."""
        return next((setting for setting in self._candidates() if self.fits(setting)), None)

    def _candidates(self):
        now = self.setting
        smaller = [size for size in range(now.micro_batch - 1, 0, -1)
                   if self.batch_size % (size * now.ranks) == 0 and now.micro_batch % size == 0]
        higher = [stage for stage in range(now.zero + 1, 4) if now.ranks > 1 or stage < 3]
        yield from (replace(now, micro_batch=size) for size in smaller)
        yield from (replace(now, zero=stage) for stage in higher)
        yield replace(now, checkpointing=True)
        for stage in (now.zero, *higher):
            yield from (replace(now, zero=stage, micro_batch=size) for size in smaller)
        smallest = min([now.micro_batch, *smaller])
        for stage in (now.zero, *higher):
            yield from (replace(now, zero=stage, micro_batch=size, checkpointing=True) for size in (now.micro_batch, *smaller))
        yield replace(now, zero=max(now.zero, 2), micro_batch=smallest, checkpointing=True, offload="optimizer")
        yield replace(now, zero=3, micro_batch=smallest, checkpointing=True, offload="parameters")
        ranks = now.ranks
        while (ranks := ranks * 2) <= 16_384:
            yield replace(now, zero=3, ranks=ranks, micro_batch=1, checkpointing=True)
