"""SwiGLU (arXiv 2002.05202, equation 6)."""

import torch.nn.functional as F
from torch import Tensor, nn

from mfa_train.feed_forward.base import FeedForward, FeedForwardConfig, Routed
from mfa_train.parallel.groups import ALONE, WHOLE_SEQUENCES, ContextGroup, ExpertGroup


class Dense(FeedForward):
    """down(silu(gate(x)) · up(x)), without biases: one for all tokens."""

    Config = FeedForwardConfig

    @classmethod
    def of(
        cls, hidden_size: int, intermediate_size: int, config: FeedForwardConfig, group: ExpertGroup = ALONE
    ) -> "Dense":
        return cls(hidden_size, intermediate_size)

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor, sequences: ContextGroup = WHOLE_SEQUENCES) -> tuple[Tensor, Routed]:
        return self.down_proj(self.hidden(x)), ()

    def hidden(self, x: Tensor) -> Tensor:
        """What `down_proj` takes, (batch, tokens, intermediate_size)."""
        return F.silu(self.gate_proj(x)) * self.up_proj(x)
