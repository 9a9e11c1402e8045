"""What a matching has done to a variant: for plan.json, and in lines for a person."""

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
            "total": shape.params,
            "difference": shape.params / target - 1,
        }
    changed = _changes(config, model, attention)
    return {"kv_cache": cache, "params": params, "changed": changed, "by": config.match.by}


def _changes(config: Config, model: ModelConfig, attention: dict) -> dict[str, list]:
    """[before, after] of every key that was set."""
    before = {f"attention.{key}": value for key, value in config.attention.items()}
    after = {f"attention.{key}": value for key, value in attention.items()}
    before["model.intermediate_size"] = config.model.intermediate_size
    after["model.intermediate_size"] = model.intermediate_size
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
        lines.append(f"{params['total']:,} parameters, target {params['target']:,}{of} ({params['difference']:+.3%})")
    lines += [f"{key}: {before} -> {after}" for key, (before, after) in report["changed"].items()]
    return lines
