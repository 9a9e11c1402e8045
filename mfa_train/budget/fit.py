"""Whether a run fits into its devices, at every ZeRO stage, and the smallest change that makes it fit."""

import functools
import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from mfa_train.budget.activations import ALONE, Pass, Sharing, activation_peak
from mfa_train.budget.context import chosen_way
from mfa_train.budget.devices import Device
from mfa_train.budget.kernel import kernel_of
from mfa_train.budget.memory import RESERVE, States, checkpoint_copy, model_states
from mfa_train.budget.shape import Shape
from mfa_train.config import Config
from mfa_train.config.deepspeed_schema import given_bucket
from mfa_train.config.training_schema import CHECKPOINTING, SELECTIVE
from mfa_train.errors import ConfigError
from mfa_train.parallel.requirements import require_parallel


@dataclass(frozen=True)
class Setting:
    """What decides a run's memory beside its model, and may be changed without changing its curve."""

    zero: int
    ranks: int
    context: int
    """How many of them share each sequence."""
    context_by: str
    """entries | heads | auto."""
    micro_batch: int
    checkpointing: str
    """none | selective | full."""
    offload: str
    background: bool
    """Of checkpoints."""

    def changes_from(self, other: "Setting", devices_per_node: int) -> list[str]:
        """As overrides to type."""
        per_node = devices_per_node
        if per_node == 1:
            per_node = max(count for count in range(1, 9) if self.ranks % count == 0)
        told = {
            "zero": f"zero={self.zero}",
            "ranks": f"cluster.nodes={self.ranks // per_node} cluster.devices_per_node={per_node}",
            "context": f"parallel.context={self.context}",
            "context_by": f"parallel.context_by={self.context_by}",
            "micro_batch": f"training.micro_batch_size={self.micro_batch}",
            "checkpointing": f"training.activation_checkpointing={self.checkpointing}",
            "offload": f"offload={self.offload}",
            "background": f"checkpoint.background={str(self.background).lower()}",
        }
        return [text for key, text in told.items() if getattr(self, key) != getattr(other, key)]


class Fit:
    """The memory of one config's runs on one device, by setting."""

    def __init__(self, config: Config, shape: Shape, device: Device, dtype: torch.dtype, ranks: int, more_ranks: bool):
        """more_ranks: whether `smallest_change` may propose other numbers of devices."""
        self.shape, self.device, self.dtype, self.more_ranks = shape, device, dtype, more_ranks
        self.config = config
        self.setting = Setting(
            config.zero,
            ranks,
            config.parallel.context,
            config.parallel.context_by,
            config.training.micro_batch(ranks // config.parallel.context, config.parallel.context),
            config.training.activation_checkpointing,
            config.offload,
            config.checkpoint.background,
        )
        self.batch_size, self.compiled = config.training.batch_size, config.training.compile
        self.expert_ranks = config.parallel.experts
        self.given_bucket, self.ema = given_bucket(config.deepspeed), config.training.ema is not None
        sharing, tokens = self._sharing(self.setting), config.training.sequence_length
        queries = tokens // sharing.ranks if sharing.way == "entries" else tokens
        self.kernel = kernel_of(config.model, config.attention, dtype, device.type, queries, tokens)
        self.pass_ = Pass(
            config.model,
            config.attention,
            self.setting.micro_batch,
            config.training.sequence_length,
            dtype,
            device.type,
            self.kernel.name,
            config.training.mlp_tile_tokens,
            self.expert_ranks,
        )
        self.usable_bytes = int(device.memory_bytes * (1 - RESERVE))

    def activations(self, setting: Setting) -> int:
        """Bytes on one device."""
        pass_ = replace(self.pass_, micro_batch=setting.micro_batch, sharing=self._sharing(setting))
        return activation_peak(pass_, setting.checkpointing)

    @functools.cache  # noqa: B019 (it lives as long as one plan)
    def _sharing(self, setting: Setting) -> Sharing:
        if setting.context == 1:
            return ALONE
        parallel = replace(self.config.parallel, context=setting.context, context_by=setting.context_by)
        chosen = chosen_way(self.config, self.shape, self.dtype, parallel, setting.checkpointing)
        return Sharing(setting.context, chosen.way)

    def states(self, setting: Setting) -> States:
        states = model_states(
            self.shape.parameter_sizes,
            self.dtype,
            setting.zero,
            setting.ranks,
            setting.offload,
            self.given_bucket,
            self.ema,
            self.shape.expert_sizes,
            self.expert_ranks,
        )
        if self.device.type == "cuda":
            return states
        copy = self.checkpoint_copy(setting)  # a CPU's memory is the host's
        return replace(states, offloaded=0, **{"kept_copy" if setting.background else "passing_copy": copy})

    def checkpoint_copy(self, setting: Setting) -> int:
        pinned = self.device.type == "cuda"
        return checkpoint_copy(self.shape.parameter_sizes, setting.zero, setting.ranks, pinned, self.ema)

    def total(self, setting: Setting) -> int:
        """Bytes on one device."""
        return self.states(setting).total(self.activations(setting))

    def fits(self, setting: Setting) -> bool:
        states = self.states(setting)
        if states.total(activations=0) >= self.usable_bytes or states.total(self._least(setting)) > self.usable_bytes:
            return False
        return self.total(setting) <= self.usable_bytes

    def _least(self, setting: Setting) -> int:
        """Activations that it has at least, known without running a step of it: of those of the run's own micro-batch
        the share of its own, since what is left out of the share is there whatever the micro-batch is."""
        now = replace(self.setting, checkpointing=setting.checkpointing)
        if self._sharing(setting) != self._sharing(now):
            return 0
        return self.activations(now) * setting.micro_batch // now.micro_batch

    def smallest_change(self) -> Setting | None:
        """The first of these that fits: one change that costs little time, then two, then offloading, then more
        devices, as many as the batch has sequences, then devices that share sequences. None where nothing does."""
        return next(
            (setting for micro_batches in self._candidates() if (setting := self._largest(micro_batches))), None
        )

    def _largest(self, micro_batches: list[Setting]) -> Setting | None:
        """Of settings with ever smaller micro-batches the first that fits."""
        if not self.fits(micro_batches[-1]):
            return None
        return micro_batches[bisect_left(micro_batches, True, key=self.fits)]

    @property
    def _more_checkpointing(self) -> list[str]:
        """What recomputes more than now, the cheapest first."""
        ways = [way for way in CHECKPOINTING if way != SELECTIVE or not self.compiled]
        return ways[ways.index(self.setting.checkpointing) + 1 :]

    def _candidates(self) -> Iterator[list[Setting]]:
        now = self.setting
        sizes = _divisors(now.micro_batch)
        stages = [stage for stage in range(now.zero, 4) if now.ranks > 1 or stage in (now.zero, 2)]

        def smaller(setting: Setting) -> list[Setting]:
            return [replace(setting, micro_batch=size) for size in sizes]

        yield smaller(now)
        yield from ([replace(now, zero=stage)] for stage in stages)
        more = self._more_checkpointing
        yield from ([replace(now, checkpointing=which)] for which in more)
        if self.device.type == "cpu":
            yield [replace(now, background=False)]
        yield from (smaller(replace(now, zero=stage)) for stage in stages)
        yield from (smaller(replace(now, zero=stage, checkpointing=which)) for which in more for stage in stages)
        if self.device.type == "cpu":
            yield from (smaller(replace(now, zero=stage, checkpointing="full", background=False)) for stage in stages)
            return  # no other memory to offload to, and more ranks would share this one's
        smallest = replace(now, zero=3, checkpointing="full")
        if self._sharing(smallest).way == "heads":
            smallest = replace(smallest, context_by="entries")
            yield smaller(replace(now, context_by="entries"))
            yield smaller(smallest)
        yield smaller(replace(now, zero=max(now.zero, 2), checkpointing="full", offload="optimizer"))
        yield smaller(replace(now, zero=3, checkpointing="full", offload="parameters"))
        smallest = replace(smallest, micro_batch=1)
        yield from ([one] for one in self._more_ranks(smallest))
        context = now.context
        while 4 * (context := context * 2) <= self.pass_.sequence_length:
            sharing = replace(smallest, context=context)
            yield from ([one] for one in (sharing, *self._more_ranks(sharing)) if self._can_be(one))

    def _more_ranks(self, setting: Setting) -> Iterator[Setting]:
        """With ever more devices, as long as each group of those that share sequences has one."""
        ranks = setting.ranks
        while self.more_ranks and (ranks := ranks * 2) <= self.batch_size * setting.context:
            if self.batch_size * setting.context % ranks == 0:
                yield replace(setting, ranks=ranks)

    def _can_be(self, setting: Setting) -> bool:
        """Whether so many ranks can share sequences."""
        if setting.ranks % setting.context or self.batch_size % (setting.ranks // setting.context):
            return False
        try:
            parallel = replace(self.config.parallel, context=setting.context)
            require_parallel(replace(self.config, parallel=parallel), setting.ranks)
        except ConfigError:
            return False
        return True


def _divisors(number: int) -> list[int]:
    """The largest first; of one above 10^12 those alone that are found in reasonable time."""
    small = [one for one in range(1, min(math.isqrt(number), 10**6) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)}, reverse=True)
