"""A mixture of experts (arXiv 1701.06538): of many SwiGLUs each token meets a few, which a router chooses, and the
shared ones (DeepSeekMoE, arXiv 2401.06066), which all tokens meet.

    y = shared(x) + Σ weight · expert(x)      over the chosen experts

No token is dropped, unless `capacity_factor` says so. An expert's weights are a slice of one tensor for all of a layer;
on disk they stand under Hugging Face's names, `experts.N.gate_proj.weight` (`mfa_train.feed_forward.names`).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfa_train.config import require_choice, require_number, require_positive, require_whole
from mfa_train.errors import ConfigError
from mfa_train.feed_forward.balancing import auxiliary_loss, entropy, tokens_of_experts, within_capacity, z_loss
from mfa_train.feed_forward.base import FeedForward, FeedForwardConfig, Routed
from mfa_train.feed_forward.family.dense import Dense
from mfa_train.feed_forward.products import Combine, Dispatch, arranged, grouped, weights_of_rows
from mfa_train.feed_forward.router import Router

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
    """One matrix of every expert."""

    def __init__(self, experts: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        for weight in self.weight.detach():
            nn.init.kaiming_uniform_(weight, a=5**0.5)  # as nn.Linear starts

    def forward(self, x: Tensor, load: Tensor) -> Tensor:
        """Each expert's `load` (experts,) rows of x (rows, inputs) times its matrix: (rows, outputs)."""
        return grouped(x, self.weight, load)


class RoutedExperts(nn.Module):
    """The SwiGLUs that a token is sent to."""

    def __init__(self, hidden_size: int, experts: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = Stacked(experts, hidden_size, intermediate_size)
        self.up_proj = Stacked(experts, hidden_size, intermediate_size)
        self.down_proj = Stacked(experts, intermediate_size, hidden_size)

    def forward(self, rows: Tensor, weights: Tensor, load: Tensor) -> Tensor:
        """rows (choices, hidden_size), sorted by expert, `load` (experts,) of each, to the same shape: each expert's
        of its rows, times `weights` (choices,)."""
        hidden = F.silu(self.gate_proj(rows, load)) * self.up_proj(rows, load)
        return self.down_proj(hidden * weights.unsqueeze(1).to(hidden.dtype), load)


class Experts(FeedForward):
    """`gate` is the router."""

    Config = ExpertsConfig

    @classmethod
    def of(cls, hidden_size: int, intermediate_size: int, config: ExpertsConfig) -> "Experts":
        return cls(hidden_size, config)

    def __init__(self, hidden_size: int, config: ExpertsConfig):
        super().__init__()
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
        self.experts = RoutedExperts(hidden_size, config.n_routed_experts, config.moe_intermediate_size)
        if config.n_shared_experts:
            self.shared_experts = Dense(hidden_size, config.n_shared_experts * config.moe_intermediate_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Routed]:
        chosen = self.gate(x)
        load = tokens_of_experts(chosen.experts.flatten(1), self.count)
        y = self._routed(x.flatten(0, 1), chosen.experts, chosen.weights, load.sum(dim=0)).view_as(x)
        if hasattr(self, "shared_experts"):
            shared, _ = self.shared_experts(x)
            y = y + shared
        loss = torch.zeros((), device=x.device)
        if self.training and self.aux_loss_coef:
            loss = loss + self.aux_loss_coef * auxiliary_loss(chosen, load)
        if self.training and self.z_loss_coef:
            loss = loss + self.z_loss_coef * z_loss(chosen.logits)
        return y, (loss, load.sum(dim=0), entropy(chosen.scores))

    def _routed(self, x: Tensor, experts: Tensor, weights: Tensor, load: Tensor) -> Tensor:
        """Of x (tokens, hidden_size) the sum over each token's experts."""
        if self.capacity_factor is not None:
            weights = weights * within_capacity(experts, self.count, self.capacity_factor)
        order, inverse, load = arranged(experts.flatten(), load, x)
        rows = Dispatch.apply(x, order, inverse, self.per_token)
        rows = self.experts(rows, weights_of_rows(weights.flatten(), order), load)
        return Combine.apply(rows, order, inverse, self.per_token)
