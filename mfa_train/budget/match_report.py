"""What a matching has done to a variant: for plan.json, and in lines for a person."""

from mfa_train.budget.lever import counted
from mfa_train.budget.shape import Shape
from mfa_train.config import Config, ModelConfig

WHY = {
    "matched": "",
    "reference": " (the full-cache reference; match.mha=head_dim would shrink it)",
    "kept": " (the variant keeps its cache, which no key of it sets)",
}
"""By the cache's role."""


def report_of(config: Config, model: ModelConfig, attention: dict, shape: Shape, target: int | None, role: str) -> dict:
    """`config` before, `model` and `attention` after, `shape` as measured on them. `target`: parameters, None where
    none were asked for. `role` of the cache: matched, or without a key that sets it reference or kept."""
    cache, params = None, None
    if (budget := config.match.kv_bytes_per_token) is not None:
        got = shape.cache_bytes(config.plan.cache_dtype)
        cache = {"target": budget, "bytes_per_token": got, "difference": got / budget - 1, "role": role}
    if target is not None:
        params = {
            "target": target,
            "reference": config.match.reference,
            "of": config.match.counted,
            "total": shape.params,
            "active": shape.active_params,
            "difference": counted(config.match, shape) / target - 1,
        }
    changed = _changes(config, model, attention)
    return {"kv_cache": cache, "params": params, "changed": changed, "by": config.match.by}


def _changes(config: Config, model: ModelConfig, attention: dict) -> dict[str, list]:
    """[before, after] of every key that was set."""
    before = {f"attention.{key}": value for key, value in config.attention.items()}
    after = {f"attention.{key}": value for key, value in attention.items()}
    for keys, of in ((before, config.model), (after, model)):
        keys["model.intermediate_size"] = of.intermediate_size
        keys |= {f"model.feed_forward.{key}": value for key, value in of.feed_forward.items()}
    return {key: [before[key], after[key]] for key in after if before[key] != after[key]}


def told(report: dict) -> list[str]:
    """The report in lines for a person."""
    lines = []
    if cache := report["kv_cache"]:
        lines.append(
            f"KV cache {cache['bytes_per_token']:,} bytes per token, budget {cache['target']:,} "
            f"({cache['difference']:+.2%}){WHY[cache['role']]}"
        )
    if params := report["params"]:
        of = f" of {params['reference']}" if params["reference"] else ""
        active = f", {params['active']:,} of them active" if params["active"] != params["total"] else ""
        counted = " active" if params["of"] == "active" else ""
        lines.append(
            f"{params['total']:,} parameters{active}, target {params['target']:,}{counted}{of} "
            f"({params['difference']:+.3%})"
        )
    lines += [f"{key}: {before} -> {after}" for key, (before, after) in report["changed"].items()]
    return lines
