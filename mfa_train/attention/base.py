"""The contract of every attention: what a token asks, what it leaves in the cache, what is made of that.

    query(x, positions)                     -> q       (batch, tokens, heads, qk_head_dim)
    cache_entry(x, positions)               -> entry   tensors (batch, tokens, ...): ALL that is kept of a token
    keys_values(*entry, positions)          -> k, v    (batch, tokens, kv_heads, qk_head_dim) and (..., v_head_dim)
    attend(q, *entry, positions, lengths)   -> o       (batch, queries, heads, v_head_dim), default: over keys_values
    output(o, x, positions)                 -> y       (batch, tokens, hidden_size), default: o_proj, behind a gate

Training and prompts attend over `keys_values(*cache_entry(x))`; decoding stores the entries and nothing else, and
attends over them with `attend`, which a variant defines where its entries need not be expanded; ranks that share a
sequence send each other entries, or heads of what is made of them, and nothing else. One definition serves all, so the
KV budget, the decode cache, what decoding and long context cost and the trained model cannot drift apart.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn

from mfa_train.attention.cache import LayerCache
from mfa_train.attention.documents import Documents
from mfa_train.attention.kernels.causal import causal_attention, choose_kernel
from mfa_train.attention.kernels.decoding import decoding_attention
from mfa_train.attention.rope import Positions, Rope, RopeScaling
from mfa_train.config import require_choice, require_positive
from mfa_train.errors import ConfigError

if TYPE_CHECKING:
    from mfa_train.attention.shared import SharedSequence

Made = TypeVar("Made")


class Capacity(NamedTuple):
    """Of the scores, as in the MFA paper's table (arXiv 2412.19255, table 1): position left out."""

    total_effective_rank: int
    """TER: heads × the rank of one head's score matrix."""
    shared_latent_dim: int
    """SLSD: dimensions of the subspace in which all heads look for keys."""


@dataclass(kw_only=True)
class AttentionConfig:
    """The keys every attention has (configs/attention_common.yaml). A variant adds its own."""

    name: str
    num_attention_heads: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    rope_interleave: bool
    """Rotated pairs lie side by side (DeepSeek's layout) instead of in halves (Llama's)."""
    qk_norm: bool
    """RMSNorm of each head's query and key before rotation, with a learned scale (Qwen3, arXiv 2505.09388)."""
    output_gate: str
    """none | head | element: the heads' outputs are multiplied by a sigmoid of the layer's input, a value a head or a
    value each of a head's dimensions (arXiv 2505.06708, its position G1)."""
    kernel: str
    """auto | sdpa | flash | tiled; see `mfa_train.attention.kernels`."""

    is_reference: ClassVar[bool] = False
    """Whether the others' caches are measured by this one's: of a cache that is not matched to its budget, why."""
    rope_key: ClassVar[str] = "head_dim"
    """The key that says how many dimensions RoPE turns, or from which `rope_dim` is derived."""

    def __post_init__(self):
        for key, value in vars(self).items():
            if type(value) is int:
                require_positive(f"attention.{key}", value, 2**20)
        if self.rope_dim % 2:
            width = getattr(self, self.rope_key)
            raise ConfigError(
                f"attention.{self.rope_key}={width}: RoPE turns pairs of dimensions, and would turn {self.rope_dim}: "
                f"type attention.{self.rope_key}={self._wider(width)}"
            )
        if not 0 < self.rope_theta <= 1e30:
            raise ConfigError(
                f"attention.rope_theta={self.rope_theta}: expected a number above 0 and at most 1e30, as 10000"
            )
        require_choice("attention.output_gate", self.output_gate, ("none", "head", "element"))
        require_choice("attention.kernel", self.kernel, ("auto", "sdpa", "flash", "tiled"))

    @property
    def rope_dim(self) -> int:
        """How many dimensions RoPE turns. A variant that turns another number than `rope_key` says overrides it."""
        return getattr(self, self.rope_key)

    def _wider(self, width: int) -> int:
        """The next value of `rope_key` with which RoPE turns pairs."""
        other = copy.copy(self)
        while other.rope_dim % 2 and width < 2**20:
            width += 1
            setattr(other, self.rope_key, width)
        return width

    @property
    def heads_step(self) -> int:
        """What num_attention_heads is a multiple of: `match.by=num_attention_heads` keeps to it."""
        return 1

    def cache_choices(self) -> Iterator[dict[str, int]]:
        """Values for the keys that set the cache, the smallest cache first: what `match.kv_bytes_per_token` chooses
        from.

        Without any the variant keeps its cache.
        """
        return iter(())

    def choices_giving_up(self, key: str) -> Iterator[dict[str, int]]:
        """`cache_choices` where `match.mha` names what full-cache attention gives up (reference: nothing)."""
        return self.cache_choices()


def require_divisor(key: str, value: int, of: str, whole: int) -> None:
    """Raises ConfigError where attention.`key` does not divide attention.`of`, with the nearest below that does."""
    if whole % value:
        near = max(one for one in range(1, value + 1) if whole % one == 0)
        raise ConfigError(
            f"attention.{key}={value} does not divide attention.{of}={whole}: type attention.{key}={near}"
        )


def of_own_entry(method: Callable[..., Made]) -> Callable[..., Made]:
    """`method` itself: where the contract says *entry, each variant names the tensors of its own entry."""
    return method


class Attention(nn.Module, ABC):
    """Causal self-attention over (batch, tokens, hidden_size).

    A variant's constructor makes its projections and states its head dimensions to this one, which adds the gate and
    the output projection. `Config` is the dataclass of its config node.
    """

    Config: ClassVar[type[AttentionConfig]]

    def __init__(self, hidden_size: int, config: AttentionConfig, *, qk_head_dim: int, v_head_dim: int):
        super().__init__()
        self.num_attention_heads = config.num_attention_heads
        self.qk_head_dim = qk_head_dim
        self.v_head_dim = v_head_dim
        self.scale = qk_head_dim**-0.5
        self.kernel = choose_kernel(config.kernel, max(qk_head_dim, v_head_dim))
        self.sinks: Tensor | None = None
        """A score of each head (heads,) that takes part in its softmax without a value; None: no such scores."""
        if config.output_gate != "none":
            gates = config.num_attention_heads * (v_head_dim if config.output_gate == "element" else 1)
            self.g_proj = nn.Linear(hidden_size, gates, bias=False)
        self.make_output(hidden_size, config)

    def make_output(self, hidden_size: int, config: Any) -> None:
        """The output projection's weights. `config` is the variant's own."""
        self.o_proj = nn.Linear(self.num_attention_heads * self.v_head_dim, hidden_size, bias=False)

    @abstractmethod
    def query(self, x: Tensor, positions: Positions) -> Tensor:
        """What the tokens ask: (batch, tokens, heads, qk_head_dim), rotated."""

    @abstractmethod
    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor, ...]:
        """All that is kept of each token: tensors (batch, tokens, ...)."""

    @abstractmethod
    @of_own_entry
    def keys_values(self, *entry: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        """Keys (batch, tokens, kv_heads, qk_head_dim) and values (..., v_head_dim) of the tokens at `positions`."""

    @of_own_entry
    def attend(self, q: Tensor, *entry: Tensor, positions: Positions, lengths: Tensor | None = None) -> Tensor:
        """Attention of q (batch, queries, heads, qk_head_dim) over the entries of the tokens at `positions`, in
        (batch, queries, heads, v_head_dim).

        The last query is the last of a row's `lengths` (batch,) tokens; without lengths, of all of them. Equal to
        attention over `keys_values`. A variant that can do without expanding what is cached says how.
        """
        k, v = self.keys_values(*entry, positions=positions)
        return decoding_attention((q,), (k,), v, self.scale, lengths=lengths, sinks=self.sinks)

    def output(self, o: Tensor, x: Tensor, positions: Positions) -> Tensor:
        """The layer's output (batch, tokens, hidden_size) of the heads' outputs o (batch, tokens, heads, v_head_dim)
        for its input x at `positions`."""
        return self.o_proj(self.gated(o, x).flatten(2))

    def gated(self, o: Tensor, x: Tensor) -> Tensor:
        """The heads' outputs o (batch, tokens, heads, v_head_dim) behind `output_gate`, if there is one."""
        if not hasattr(self, "g_proj"):
            return o
        return o * self.g_proj(x).sigmoid().unflatten(-1, (self.num_attention_heads, -1))

    def forward(
        self,
        x: Tensor,
        positions: Positions,
        cache: LayerCache | None = None,
        documents: Documents | None = None,
        sequence: "SharedSequence | None" = None,
    ) -> Tensor:
        """Attention of x (batch, tokens, hidden_size) over itself and, where given, over the tokens in `cache`.

        `positions` are those of x. With `documents`, of x over no cache or an empty one, a token sees its own document
        alone. With a `sequence` x is of its tokens that this rank has, and the cache, an empty one, takes them all.
        """
        if sequence is not None:
            return self.output(sequence.attention(self, x, positions, cache), x, positions)
        q = self.query(x, positions)
        entry, of_entry, lengths = self.cache_entry(x, positions), positions, None
        if cache is not None:
            entry, of_entry, lengths = cache.extend(entry)
        if cache is not None and (q.shape[1] == 1 or lengths is not None):
            o = self.attend(q, *entry, positions=of_entry, lengths=lengths)
        else:
            k, v = self.keys_values(*entry, positions=of_entry)
            o = causal_attention(q, k, v, self.scale, self.kernel, documents, self.sinks)
        return self.output(o, x, positions)

    def capacity(self) -> Capacity | None:
        """None where the scores are no bilinear form of two tokens, for which the paper defines it."""
        return None

    def notes(self) -> list[str]:
        """What stands below a plan's table, in words, where a number in it needs some."""
        return []

    @staticmethod
    def make_rope(config: AttentionConfig) -> Rope:
        return Rope(config.rope_dim, config.rope_theta, config.rope_scaling, config.rope_interleave)

    def uniform_bounds(self) -> dict[str, float]:
        """Weights (by name) that start uniform within ± a bound instead of as the model's initialisation says."""
        return {}


def multiples(unit: int = 8, largest: int = 2**16) -> range:
    """Dimensions that suit matrix units (8 values of 16 bits: one 16-byte load) and, being even, RoPE."""
    return range(unit, largest + 1, unit)


def heads(x: Tensor, head_dim: int) -> Tensor:
    """(batch, tokens, heads·head_dim) as (batch, tokens, heads, head_dim)."""
    return x.unflatten(-1, (-1, head_dim))
