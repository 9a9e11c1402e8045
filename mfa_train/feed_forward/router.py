"""Which experts a token goes to, and by what weights: in float32, whatever the model's type.

DeepSeek-V3's router (arXiv 2412.19437, equations 12 to 16), of which the softmax routers of Mixtral (arXiv 2401.04088,
section 2.1), Qwen3 and Step-3 are the case without a bias and with one group.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BEST_OF_GROUP = 2
"""Experts by whose sum a group of them is chosen."""


class Chosen(NamedTuple):
    """Of each token."""

    experts: Tensor
    """(batch, tokens, num_experts_per_tok), their numbers."""
    weights: Tensor
    """The same shape, float32: what each expert's output is multiplied by."""
    scores: Tensor
    """(batch, tokens, experts), float32: of all experts, before anything chose."""
    logits: Tensor
    """The same shape, float32."""


class Router(nn.Module):
    """The `weight` is a linear layer's; `e_score_correction_bias`, where there is one, moves what is chosen and not by
    what weights: it has no gradient, and is float32 always."""

    e_score_correction_bias: Tensor

    def __init__(
        self,
        hidden_size: int,
        experts: int,
        per_token: int,
        *,
        scoring_func: str,
        norm_topk_prob: bool,
        routed_scaling_factor: float,
        groups: int,
        chosen_groups: int,
        biased: bool,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, hidden_size))
        self.per_token, self.scoring_func = per_token, scoring_func
        self.norm_topk_prob, self.routed_scaling_factor = norm_topk_prob, routed_scaling_factor
        self.groups, self.chosen_groups = groups, chosen_groups
        self.biased = biased
        if biased:
            bias = torch.zeros(
                experts
            ).float()  # while ZeRO 3 builds a model, torch.zeros makes its type whatever is asked
            self.register_buffer("e_score_correction_bias", bias)

    def forward(self, x: Tensor) -> Chosen:
        """x (batch, tokens, hidden_size)."""
        logits = F.linear(x.float(), self.weight.float())
        scores = logits.sigmoid() if self.scoring_func == "sigmoid" else logits.softmax(dim=-1)
        judged = scores.detach() + self.e_score_correction_bias if self.biased else scores.detach()
        experts = self._within_groups(judged).topk(self.per_token, dim=-1).indices
        weights = scores.gather(-1, experts)
        if self.norm_topk_prob:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return Chosen(experts, weights * self.routed_scaling_factor, scores, logits)

    def _within_groups(self, judged: Tensor) -> Tensor:
        """`judged`, -inf for the experts of groups that a token does not choose."""
        if self.chosen_groups == self.groups:
            return judged
        grouped = judged.unflatten(-1, (self.groups, -1))
        of_group = grouped.topk(min(BEST_OF_GROUP, grouped.shape[-1]), dim=-1).values.sum(dim=-1)
        others = torch.ones_like(of_group, dtype=torch.bool)
        others.scatter_(-1, of_group.topk(self.chosen_groups, dim=-1).indices, False)
        return grouped.masked_fill(others.unsqueeze(-1), float("-inf")).flatten(-2)

    def _apply(self, fn, recurse=True):
        """A change of the module's type leaves the bias float32."""
        bias = self.e_score_correction_bias if self.biased else None
        super()._apply(fn, recurse)
        if bias is not None and self.e_score_correction_bias.dtype != torch.float32:
            self.e_score_correction_bias = bias.to(self.e_score_correction_bias.device)
        return self
