"""What forms of others say of a mixture of experts: what they have of it, and what they lack, by its key."""

from typing import Any

from mfa_train.config import written
from mfa_train.export.formats.base import Format, FormatCannotSay
from mfa_train.export.formats.config_json import ConfigJson

EXPERTS = "model.feed_forward."
"""Of the keys of a mixture."""
LACKS = {
    "bias_update_speed": "no bias in its router",
    "capacity_factor": "no capacity: it drops no token",
    "n_group": "no groups of experts",
    "n_shared_experts": "no shared experts",
    "first_k_dense_replace": "experts in every layer",
    "norm_topk_prob": "weights that sum to one",
    "routed_scaling_factor": "no factor behind its experts",
}
"""What a form has that has one value of a key alone."""
SOFTMAX = {"scoring_func": "softmax", "bias_update_speed": 0, "n_group": 1, "routed_scaling_factor": 1}
"""Of the routers of Mixtral, Qwen3-MoE and Step-3."""


def require(form: Format, called: str, **only: Any) -> None:
    """Raises FormatCannotSay where a key of the form's mixture is not what the class `called` has `only`."""
    for key, value in {**only, "capacity_factor": None}.items():
        if (given := getattr(form.feed_forward, key)) != value:
            has = LACKS.get(key) or f"a {value} router"
            raise FormatCannotSay(f"{EXPERTS}{key}={written(given)}: {called} has {has}")


def require_shared(form: Format, called: str) -> None:
    """Raises FormatCannotSay where there is no shared expert."""
    if not form.feed_forward.n_shared_experts:
        raise FormatCannotSay(f"{EXPERTS}n_shared_experts=0: {called} always has a shared expert")


def mixture(settings: ConfigJson, *, experts: str, per_token: str, first: int, **keys: Any) -> dict[str, Any]:
    """Our keys of a mixture whose number of experts, and those of a token, stand under these names in `settings`:
    behind `first` dense layers, with `keys`, and all else as `SOFTMAX` has it without shared experts. How it is
    balanced is not among them, but for whether there is a bias. Raises ConfigError."""
    found = {
        "n_routed_experts": settings.count(experts),
        "num_experts_per_tok": settings.count(per_token),
        "n_shared_experts": 0,
        "first_k_dense_replace": first,
        **SOFTMAX,
        "topk_group": 1,
        "capacity_factor": None,
    } | keys
    return {"feed_forward": "experts", **{f"{EXPERTS}{key}": value for key, value in found.items()}}
