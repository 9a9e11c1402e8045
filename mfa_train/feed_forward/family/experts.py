"""A mixture of experts (arXiv 1701.06538): of many SwiGLUs each token meets a few, which a router chooses, and the
shared ones (DeepSeekMoE, arXiv 2401.06066), which all tokens meet.

    y = shared(x) + Σ weight · expert(x)      over the chosen experts

No token is dropped, unless `capacity_factor` says so, and then in training alone: of a text that is decoded or padded
a sequence's share is not known. An expert's weights are a slice of one tensor for all of a layer;
on disk they stand under Hugging Face's names, `experts.N.gate_proj.weight` (`mfa_train.feed_forward.names`).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfa_train.config import require_choice, require_number, require_positive, require_whole
from mfa_train.errors import ConfigError
from mfa_train.feed_forward.balancing import (
    auxiliary_loss,
    dropped,
    entropy,
    of_whole,
    tokens_of_experts,
    within_capacity,
    z_loss,
)
from mfa_train.feed_forward.base import FeedForward, FeedForwardConfig, Routed
from mfa_train.feed_forward.family.dense import Dense
from mfa_train.feed_forward.products import Combine, Dispatch, arranged, grouped, weights_of_rows
from mfa_train.feed_forward.router import Router
from mfa_train.parallel.exchange import Journey, sorted_by
from mfa_train.parallel.groups import ALONE, WHOLE_SEQUENCES, ContextGroup, ExpertGroup
from mfa_train.parallel.parameters import share_out

MOST_EXPERTS = 2**14
WIDTH = 2**24


@dataclass(kw_only=True)
class ExpertsConfig(FeedForwardConfig):
    """Hugging Face's keys of DeepSeek-V3, Mixtral and Qwen3-MoE."""

    n_routed_experts: int
    num_experts_per_tok: int
    n_shared_experts: int
    """Side by side, as one SwiGLU of so many times `moe_intermediate_size`; 0: none."""
    moe_intermediate_size: int
    """Of one expert."""
    first_k_dense_replace: int
    """So many first layers are dense."""
    scoring_func: str
    """softmax | sigmoid."""
    norm_topk_prob: bool
    routed_scaling_factor: float
    n_group: int
    topk_group: int
    router_aux_loss_coef: float
    router_z_loss_coef: float
    bias_update_speed: float
    """DeepSeek-V3's gamma: 0 has no bias."""
    capacity_factor: float | None

    def __post_init__(self):
        here = "model.feed_forward."
        require_positive(f"{here}n_routed_experts", self.n_routed_experts, MOST_EXPERTS)
        require_positive(f"{here}num_experts_per_tok", self.num_experts_per_tok, MOST_EXPERTS)
        require_whole(f"{here}n_shared_experts", self.n_shared_experts, 0, MOST_EXPERTS)
        require_positive(f"{here}moe_intermediate_size", self.moe_intermediate_size, WIDTH)
        require_whole(f"{here}first_k_dense_replace", self.first_k_dense_replace, 0, 2**20)
        require_choice(f"{here}scoring_func", self.scoring_func, ("softmax", "sigmoid"))
        require_number(f"{here}routed_scaling_factor", self.routed_scaling_factor, 1e-6, 1e6)
        for key in ("router_aux_loss_coef", "router_z_loss_coef", "bias_update_speed"):
            require_number(f"{here}{key}", getattr(self, key), 0, 1e6)
        if self.capacity_factor is not None:
            require_number(f"{here}capacity_factor", self.capacity_factor, 1e-3, 1e6)
        require_positive(f"{here}n_group", self.n_group, MOST_EXPERTS)
        require_positive(f"{here}topk_group", self.topk_group, MOST_EXPERTS)
        self._require_groups()

    def _require_groups(self) -> None:
        here = "model.feed_forward."
        experts, per_token, groups = self.n_routed_experts, self.num_experts_per_tok, self.n_group
        if experts % groups:
            near = max(one for one in range(1, min(groups, experts) + 1) if experts % one == 0)
            raise ConfigError(
                f"{here}n_group={groups} does not divide {here}n_routed_experts={experts}: type {here}n_group={near}"
            )
        if self.topk_group > groups:
            raise ConfigError(f"{here}topk_group={self.topk_group}: there are {groups} groups: type at most that many")
        reached = self.topk_group * experts // groups
        if per_token > reached:
            within = f" in {self.topk_group} of {groups} groups" if groups > 1 else ""
            raise ConfigError(
                f"{here}num_experts_per_tok={per_token}: a token can reach {reached} experts{within}: type "
                f"{here}num_experts_per_tok={reached} or fewer"
            )

    def in_layer(self, layer: int) -> str:
        return "dense" if layer < self.first_k_dense_replace else self.name


class Stacked(nn.Module):
    """One matrix of every expert; where the ranks of `group` share them out, of this rank's."""

    def __init__(self, experts: int, inputs: int, outputs: int, group: ExpertGroup):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts // group.size, outputs, inputs))
        share_out(self.weight, group.first_of(experts), experts)
        nn.init.kaiming_uniform_(self.weight.detach().flatten(0, 1), a=5**0.5)  # as nn.Linear starts

    def forward(self, x: Tensor, load: Tensor) -> Tensor:
        """Each expert's `load` (experts,) rows of x (rows, inputs) times its matrix: (rows, outputs)."""
        return grouped(x, self.weight, load)


class RoutedExperts(nn.Module):
    """The SwiGLUs that a token is sent to; this rank's of them."""

    def __init__(self, hidden_size: int, experts: int, intermediate_size: int, group: ExpertGroup):
        super().__init__()
        self.gate_proj = Stacked(experts, hidden_size, intermediate_size, group)
        self.up_proj = Stacked(experts, hidden_size, intermediate_size, group)
        self.down_proj = Stacked(experts, intermediate_size, hidden_size, group)

    def forward(self, rows: Tensor, weights: Tensor, load: Tensor) -> Tensor:
        """rows (choices, hidden_size), sorted by expert, `load` (experts,) of each, to the same shape: each expert's
        of its rows, times `weights` (choices,)."""
        hidden = F.silu(self.gate_proj(rows, load)) * self.up_proj(rows, load)
        return self.down_proj(hidden * weights.unsqueeze(1).to(hidden.dtype), load)


class Experts(FeedForward):
    """`gate` is the router."""

    Config = ExpertsConfig

    @classmethod
    def of(
        cls, hidden_size: int, intermediate_size: int, config: ExpertsConfig, group: ExpertGroup = ALONE
    ) -> "Experts":
        return cls(hidden_size, config, group)

    def __init__(self, hidden_size: int, config: ExpertsConfig, group: ExpertGroup = ALONE):
        super().__init__()
        self.group = group
        self.count, self.per_token = config.n_routed_experts, config.num_experts_per_tok
        self.aux_loss_coef, self.z_loss_coef = config.router_aux_loss_coef, config.router_z_loss_coef
        self.bias_update_speed, self.capacity_factor = config.bias_update_speed, config.capacity_factor
        self.gate = Router(
            hidden_size,
            config.n_routed_experts,
            config.num_experts_per_tok,
            scoring_func=config.scoring_func,
            norm_topk_prob=config.norm_topk_prob,
            routed_scaling_factor=config.routed_scaling_factor,
            groups=config.n_group,
            chosen_groups=config.topk_group,
            biased=config.bias_update_speed > 0,
        )
        self.experts = RoutedExperts(hidden_size, config.n_routed_experts, config.moe_intermediate_size, group)
        if config.n_shared_experts:
            self.shared_experts = Dense(hidden_size, config.n_shared_experts * config.moe_intermediate_size)

    def forward(self, x: Tensor, sequences: ContextGroup = WHOLE_SEQUENCES) -> tuple[Tensor, Routed]:
        chosen = self.gate(x)
        load = tokens_of_experts(chosen.experts.flatten(1), self.count)
        weights = chosen.weights
        if self.training and self.capacity_factor is not None:  # else what follows a token would change its output
            weights = weights * within_capacity(chosen.experts, load, self.capacity_factor)
        of_all, way = load.sum(dim=0), self.exchanged if self.group.size > 1 else self.here
        y = way(x, chosen.experts.flatten(), weights.flatten(), of_all)
        if not self.training:  # nobody asks
            return y, ()
        loss = torch.zeros((), device=x.device)
        if self.aux_loss_coef:
            loss = loss + self.aux_loss_coef * auxiliary_loss(chosen, of_whole(sequences, load))
        if self.z_loss_coef:
            loss = loss + self.z_loss_coef * z_loss(chosen.logits)
        told = entropy(chosen.scores), dropped(load, chosen.experts[0].numel(), self.capacity_factor)
        return y, (loss, of_all, torch.stack(told))

    def here(self, x: Tensor, experts: Tensor, weights: Tensor, load: Tensor) -> Tensor:
        """y of x (batch, tokens, hidden_size), where this rank has all experts. `experts` and `weights`
        (choices,): each token's, end to end."""
        order, inverse, load = arranged(experts, load, x)
        rows = Dispatch.apply(x.flatten(0, 1), order, inverse, self.per_token)
        rows = self.experts(rows, weights_of_rows(weights, order), load)
        y = Combine.apply(rows, order, inverse, self.per_token).view_as(x)
        if hasattr(self, "shared_experts"):
            shared, _ = self.shared_experts(x)
            y = y + shared
        return y

    def exchanged(self, x: Tensor, experts: Tensor, weights: Tensor, load: Tensor) -> Tensor:
        """`here`, where each rank of the group has its experts: rows go there with their weights, and their products
        back. The two halves of the shared experts are computed meanwhile."""
        order, inverse = sorted_by(experts)
        journey, shared = Journey(load, self.group), getattr(self, "shared_experts", None)
        rows = Dispatch.apply(x.flatten(0, 1), order, inverse, self.per_token)
        rows, weights = journey.leave(rows, weights.index_select(0, order).to(rows.dtype))
        hidden = shared.hidden(x) if shared else None
        rows, weights = journey.arrive(rows, weights)
        rows = journey.leave_back(self.experts(rows, weights, journey.load))
        of_all = shared.down_proj(hidden) if shared else None
        y = Combine.apply(journey.arrive_back(rows), order, inverse, self.per_token).view_as(x)
        return y if of_all is None else y + of_all
