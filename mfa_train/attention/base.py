"""The contract of every attention: what a token asks, what it leaves in the cache, what is made of that.

    query(x, positions)              -> q       (batch, tokens, heads, qk_head_dim)
    cache_entry(x, positions)        -> entry   tensors (batch, tokens, ...): ALL that is kept of a token
    keys_values(*entry, positions)   -> k, v    (batch, tokens, kv_heads, qk_head_dim) and (..., v_head_dim)

Training attends over `keys_values(*cache_entry(x))`; decoding stores the entries and nothing else. One definition
serves both, so the KV budget, the decode cache and the trained model cannot drift apart.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn

from mfa_train.attention.cache import LayerCache
from mfa_train.attention.documents import Documents
from mfa_train.attention.kernels import attend, choose_kernel
from mfa_train.attention.rope import Positions, Rope, RopeScaling
from mfa_train.config import require_choice, require_positive
from mfa_train.errors import ConfigError

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
    kernel: str
    """auto | sdpa | flash | tiled; see `mfa_train.attention.kernels`."""

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

    def cache_choices(self) -> Iterator[dict[str, int]]:
        """Values for the keys that set the cache, the smallest cache first: what `match.kv_bytes_per_token` chooses
        from.

        Without any the variant keeps its cache, as the reference the others are measured by.
        """
        return iter(())

    def choices_giving_up(self, key: str) -> Iterator[dict[str, int]]:
        """`cache_choices` where `match.mha` names what full-cache attention gives up (reference: nothing)."""
        return self.cache_choices()


def of_own_entry(method: Callable[..., Made]) -> Callable[..., Made]:
    """`method` itself: where the contract says *entry, each variant names the tensors of its own entry."""
    return method


class Attention(nn.Module, ABC):
    """Causal self-attention over (batch, tokens, hidden_size).

    A variant's constructor makes its projections and states its head dimensions to this one, which adds the output
    projection. `Config` is the dataclass of its config node.
    """

    Config: ClassVar[type[AttentionConfig]]

    def __init__(self, hidden_size: int, config: AttentionConfig, *, qk_head_dim: int, v_head_dim: int):
        super().__init__()
        self.num_attention_heads = config.num_attention_heads
        self.qk_head_dim = qk_head_dim
        self.v_head_dim = v_head_dim
        self.scale = qk_head_dim**-0.5
        self.kernel = choose_kernel(config.kernel, max(qk_head_dim, v_head_dim))
        self.o_proj = nn.Linear(config.num_attention_heads * v_head_dim, hidden_size, bias=False)

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

    def forward(
        self, x: Tensor, positions: Positions, cache: LayerCache | None = None, documents: Documents | None = None
    ) -> Tensor:
        """Attention of x (batch, tokens, hidden_size) over itself and, where given, over the tokens in `cache`.

        `positions` are those of x. With `documents`, which has no cache beside it, a token sees its own document alone.
        """
        q = self.query(x, positions)
        entry = self.cache_entry(x, positions)
        if cache is not None:
            entry, positions = cache.extend(entry)
        k, v = self.keys_values(*entry, positions=positions)
        return self.o_proj(attend(q, k, v, self.scale, self.kernel, documents).flatten(2))

    def capacity(self) -> Capacity | None:
        """None where the scores are no bilinear form of two tokens, for which the paper defines it."""
        return None

    def decode_widths(self) -> tuple[int, int]:
        """Multiply-adds of one head per cached token while decoding: for its score and for its value.

        A variant whose entries can be attended over without expanding them says what that takes.
        """
        return self.qk_head_dim, self.v_head_dim

    def decode_extra_flops(self) -> int:
        """What attending over unexpanded entries adds to the projections of one decoded token, in one layer."""
        return 0

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
