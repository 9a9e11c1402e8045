"""The contract of every feed-forward.

    forward(x, sequences)   -> y, routed    x and y (batch, tokens, hidden_size); routed: what `Routed` says, or ()

A token's y is a function of that token alone. What a kind has to say of a pass beside (losses of its own, how busy its
experts were) it returns; nothing is kept in the module, so a layer that runs a second time for its gradients says it
only once.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from mfa_train.parallel.groups import ALONE, WHOLE_SEQUENCES, ContextGroup, ExpertGroup

Routed = tuple[Tensor, ...]
"""Of one layer's pass in training: (loss, load, told).

loss: what is added to the model's, in nats, float32, (). load: tokens that each expert was given, (experts,), whole
numbers. told: of the router's probabilities the entropy, the mean over tokens in nats, and the share of the tokens'
choices that were dropped, float32, (2,).
"""


@dataclass(kw_only=True)
class FeedForwardConfig:
    """The keys that every kind has. A kind adds its own, under Hugging Face's names."""

    name: str

    def in_layer(self, layer: int) -> str:
        """Which kind stands in the `layer` (from 0)."""
        return self.name


class FeedForward(nn.Module, ABC):
    """`Config` is the dataclass of the config node `model.feed_forward` where this kind is chosen."""

    Config: ClassVar[type[FeedForwardConfig]]
    per_token: int = 0
    """To how many experts, that may be another rank's, a token is sent."""

    @classmethod
    @abstractmethod
    def of(cls, hidden_size: int, intermediate_size: int, config: Any, group: ExpertGroup = ALONE) -> "FeedForward":
        """One layer's. `intermediate_size`: the model's, of dense layers; `config`: the chosen kind's; `group`: with
        which ranks this one shares experts out."""

    @abstractmethod
    def forward(self, x: Tensor, sequences: ContextGroup = WHOLE_SEQUENCES) -> tuple[Tensor, Routed]:
        """x (batch, tokens, hidden_size) to the same shape, and what it says beside. `sequences`: the ranks that have
        the other tokens of x's sequences."""
