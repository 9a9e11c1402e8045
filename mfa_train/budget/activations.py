"""The most memory that activations take in a step, found by running the step on torch's meta device.

A layer of each kind runs forward and backward over one micro-batch, and again with one more of a kind, every storage
counted from birth to death; each further layer of that kind adds the difference. A router sends as many tokens to each
expert. Parameters and their gradients, once these are a layer's, are not counted here (`mfa_train.budget.memory`); on
their way those of experts are, of which a rank has its share. Where ranks share sequences it is the pass of one of
them: its own tokens, and what it receives of the others'.

What it leaves out: the allocator's fragmentation, a kernel's scratch memory but flash-attn's
(`attention.kernels.causal`), and what torch.compile fuses away.
"""

import dataclasses
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from mfa_train.budget.remembered import result_of
from mfa_train.budget.shape import countable, layers_of, meta_model
from mfa_train.budget.unsent import shared_sequence
from mfa_train.config import ModelConfig
from mfa_train.feed_forward import layers_by_kind
from mfa_train.feed_forward.names import STACKED
from mfa_train.model.loss import CHUNK_LOGITS
from mfa_train.model.tiles import compute_in_tiles


@dataclasses.dataclass(frozen=True)
class Sharing:
    """Of sequences."""

    ranks: int
    """How many share each."""
    way: str
    """entries | heads: what they send each other."""


ALONE = Sharing(1, "entries")


@dataclasses.dataclass(frozen=True)
class Pass:
    """One forward and backward of one rank."""

    model: ModelConfig
    attention: dict
    """The config node."""
    micro_batch: int
    sequence_length: int
    dtype: torch.dtype
    device_type: str
    """cuda | cpu: they differ in the loss's chunks."""
    kernel: str
    """Of the attention, as `mfa_train.attention.kernels.causal.planned_kernel` says it."""
    mlp_tile_tokens: int | None = None
    expert_ranks: int = 1
    """How many share out each layer's experts."""
    sharing: Sharing = ALONE


_found: dict[tuple[str, str], int] = {}
"""What was asked before in this process, by the pass in words: members of a sweep are often alike."""


@countable()
def activation_peak(pass_: Pass, checkpointing: str) -> int:
    """Bytes on one rank; checkpointing: none | selective | full."""
    if (key := (repr(pass_), checkpointing)) not in _found:
        kinds = layers_by_kind(pass_.model)
        one_each = _peak(pass_, [*kinds], checkpointing)
        _found[key] = one_each + sum(
            (count - 1) * (_peak(pass_, [*kinds, kind], checkpointing) - one_each)
            for kind, count in kinds.items()
            if count > 1
        )
    return _found[key]


def _peak(pass_: Pass, layers: list[int], checkpointing: str) -> int:
    sharing = pass_.sharing
    sequence = None
    if sharing.ranks > 1:
        sequence = shared_sequence(sharing.way, sharing.ranks, pass_.sequence_length)
    with torch.device("meta"):
        model = meta_model(pass_.model, pass_.attention, layers).to(pass_.dtype)
        tokens = torch.empty(pass_.micro_batch, pass_.sequence_length // sharing.ranks, dtype=torch.long)
    for layer in layers_of(model):
        layer.self_attn.kernel = pass_.kernel
    model.lm_head.chunk_logits = CHUNK_LOGITS[pass_.device_type]
    model.lm_head.max_chunks = 2  # each takes the same memory
    model.model.activation_checkpointing = checkpointing
    compute_in_tiles(model, pass_.mlp_tile_tokens, most=2)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    with _Storages(model, pass_.expert_ranks) as storages:
        model(tokens, tokens, sequence=sequence).backward()
    return storages.peak


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


class _Storages(TorchDispatchMode):
    """Bytes of the storages that are alive, those of `model` left out, and the most there were at once; of what is
    shaped like all experts' weights a share."""

    def __init__(self, model: torch.nn.Module, expert_ranks: int):
        super().__init__()
        self.alive = self.peak = 0
        self.expert_ranks = expert_ranks
        self.shared_out = {parameter.shape for name, parameter in model.named_parameters() if STACKED.fullmatch(name)}
        self.known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = result_of(func, args, kwargs or {})
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                share = self.expert_ranks if value.shape in self.shared_out else 1
                self._count(value.untyped_storage(), share)
        return result

    def _count(self, storage: torch.UntypedStorage, share: int) -> None:
        key, size = storage._cdata, storage.nbytes() // share
        if key in self.known:
            return
        self.known.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size
