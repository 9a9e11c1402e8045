"""The part of the schema that is about the decoder around the attention."""

from dataclasses import dataclass
from typing import Any

from mfa_train.config.requirements import (
    SEQUENCE,
    WIDTH,
    require_choice,
    require_not_negative,
    require_number,
    require_positive,
)

LAYERS = 2**20
DRAWS = (1, 2)


@dataclass
class InitializationConfig:
    """How weights start; see `mfa_train.model.initialization`."""

    method: str
    """normal | scaled | mfa | zero_output."""
    std: float
    """Standard deviation of the normal distribution of every matrix."""
    draw: int = 2
    """By which numbers: 1 | 2."""


@dataclass
class ModelConfig:
    """The decoder around the attention. Head counts and widths are those of the size's reference MHA."""

    name: str
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    """Of the size's GQA."""
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    """The sequence length the size is meant to train at, in tokens."""
    learning_rate: float
    """Peak learning rate that suits the size."""
    rms_norm_eps: float
    tie_word_embeddings: bool
    initialization: InitializationConfig
    feed_forward: dict[str, Any]
    """The keys of the kind of feed-forward (`mfa_train.feed_forward`), which checks them."""

    def __post_init__(self):
        for key, most in (
            ("hidden_size", WIDTH),
            ("num_hidden_layers", LAYERS),
            ("intermediate_size", 16 * WIDTH),
            ("num_attention_heads", WIDTH),
            ("num_key_value_heads", WIDTH),
            ("head_dim", WIDTH),
            ("vocab_size", 16 * WIDTH),
            ("max_position_embeddings", SEQUENCE),
        ):
            require_positive(f"model.{key}", getattr(self, key), most)
        require_number("model.rms_norm_eps", self.rms_norm_eps, 1e-30, 1)
        require_not_negative("model.learning_rate", self.learning_rate)
        require_not_negative("model.initialization.std", self.initialization.std)
        require_choice(
            "model.initialization.method", self.initialization.method, ("normal", "scaled", "mfa", "zero_output")
        )
        require_choice("model.initialization.draw", self.initialization.draw, DRAWS)
