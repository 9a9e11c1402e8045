"""The part of the schema that is about costs: to what a variant is matched, what a plan assumes."""

from dataclasses import dataclass
from typing import Any

from mfa_train.config.places import local
from mfa_train.config.quantities import bytes_of
from mfa_train.config.requirements import require_choice, require_positive
from mfa_train.errors import ConfigError

CACHE_BYTES = {"bf16": 2, "fp8": 1, "fp32": 4}
"""Of one value in the KV cache, by plan.cache_dtype."""
BY = ("intermediate_size", "num_attention_heads", "moe_intermediate_size", "n_routed_experts")
SCALE_BYTES = {"bf16": 0, "fp8": 1, "fp32": 0}
"""Of what stands beside each tensor of a token's entry: in fp8 its scale, a power of two."""


def entry_bytes(values: int, tensors: int, cache_dtype: str) -> int:
    """Of one token in one layer's cache: `values` in all, in so many tensors."""
    return values * CACHE_BYTES[cache_dtype] + tensors * SCALE_BYTES[cache_dtype]


@dataclass
class MatchConfig:
    """To what the variant is shaped before anything else; see `mfa_train.budget.match`."""

    kv_bytes_per_token: Any
    """Bytes, all layers together, in plan.cache_dtype: a whole number, or text as 24KiB."""
    params: float | None
    """Of the whole model, embeddings too."""
    reference: str | None
    """The attention whose parameters, in a model of this size, are the target."""
    by: str
    """intermediate_size | num_attention_heads | moe_intermediate_size | n_routed_experts: the key that makes the
    parameters equal."""
    counted: str
    """total | active: which parameters are equal, all or those that a token meets."""
    multiple_of: int
    """Of intermediate_size and moe_intermediate_size."""
    mha: str
    """reference | head_dim | num_attention_heads: what MHA gives up for the cache's budget."""

    def __post_init__(self):
        if self.kv_bytes_per_token is not None:
            self.kv_bytes_per_token = bytes_of("match.kv_bytes_per_token", self.kv_bytes_per_token)
            require_positive("match.kv_bytes_per_token", self.kv_bytes_per_token, 2**50)
        if self.params is not None and not 1 <= self.params <= 1e15:
            raise ConfigError(
                f"match.params={self.params}: expected a number of parameters up to 1e15, as match.params=1.3e9"
            )
        if self.params is not None and self.reference is not None:
            raise ConfigError(
                f"match.params={self.params:g} and match.reference={self.reference} are two targets: type one of them"
            )
        require_choice("match.by", self.by, BY)
        require_choice("match.counted", self.counted, ("total", "active"))
        require_choice("match.mha", self.mha, ("reference", "head_dim", "num_attention_heads"))
        require_positive("match.multiple_of", self.multiple_of, 2**20)
        if self.mha == self.by == "num_attention_heads":
            raise ConfigError(
                "match.mha=num_attention_heads and match.by=num_attention_heads set the same key to two ends: "
                "type match.mha=head_dim, or match.by=intermediate_size"
            )

    @property
    def wanted(self) -> bool:
        return (self.kv_bytes_per_token, self.params, self.reference) != (None, None, None)


@dataclass
class PlanConfig:
    """What a plan assumes; see `mfa_train.budget.plan`."""

    context: int
    """Tokens in the cache while decoding."""
    cache_dtype: str
    """Of the KV cache: bf16 | fp8 | fp32."""
    mfu: Any
    """Share of the device's peak FLOPs: a number, a run folder to take the measured one from, or null (assumed)."""
    decode_counting: str
    """exact | step3 (arXiv 2507.19427 counts absorbed MLA's values as wide as its keys)."""
    check: bool
    """Training refuses to start what cannot fit into the device's memory."""

    def __post_init__(self):
        require_positive("plan.context", self.context, 2**40)
        require_choice("plan.cache_dtype", self.cache_dtype, tuple(CACHE_BYTES))
        require_choice("plan.decode_counting", self.decode_counting, ("exact", "step3"))
        if isinstance(self.mfu, bool) or (isinstance(self.mfu, (int, float)) and not 0 < self.mfu <= 1):
            raise ConfigError(f"plan.mfu={self.mfu}: expected a share above 0 and up to 1, as plan.mfu=0.4")
        if isinstance(self.mfu, str):
            self.mfu = local("plan.mfu", self.mfu, "share as 0.4, or a run's folder")
