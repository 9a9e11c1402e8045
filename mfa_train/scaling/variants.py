"""What the runs are grouped by: the attention, and whatever else was varied at one size, token budget and seed.

A variant of two KV budgets is named by its share of MHA's cache, which, unlike its bytes, is the same at every size.
"""

from collections import defaultdict
from typing import Any

from mfa_train.config.quantities import bytes_of
from mfa_train.errors import ConfigError, did_you_mean
from mfa_train.scaling.runs import Run

NOT_VARIED = (
    "name",
    "runs_dir",
    "data_dir",
    "data.path",
    "resume",
    "seed",
    "tracking.",
    "sample.",
    "cluster.",
    "plan.",
    "checkpoint.",
    "guard.",
    "training.steps",
    "training.tokens",
    "training.log_every",
    "training.eval_every",
    "training.micro_batch_size",
    "training.activation_checkpointing",
    "training.compile",
    "zero",
    "offload",
    "attention.kernel",
)
"""Keys that make no variant: a run's budget, its bookkeeping, and what changes no number."""
SHAPED = ("model.intermediate_size", "attention.", "match.params")
"""Keys that follow from `match`, and differ from size to size."""
BUDGET = "match.kv_bytes_per_token"


def name_variants(runs: list[Run], by: tuple[str, ...] = ()) -> None:
    """Sets each run's `variant`: of its attention and of the config keys `by`, or of those found to be varied.

    Raises ConfigError for a key of `by` that no run's config holds.
    """
    known = sorted({key for run in runs for key in run.config})
    for key in by:
        if known and key not in known:
            raise ConfigError(f"--by {key}: no such key in the runs' configs.{did_you_mean(key, known)}")
    attentions = defaultdict(list)
    for run in runs:
        if run.config:
            attentions[run.attention].append(run)
    for attention, members in attentions.items():
        keys = [key for key in by if key != "attention.name"] if by else _varied(members)
        for run in members:
            run.variant = " ".join(filter(None, [str(attention), *(_told(key, run) for key in keys)]))


def _varied(runs: list[Run]) -> list[str]:
    """The keys in which runs of one size, token budget and seed differ."""
    cells = defaultdict(list)
    for run in runs:
        if run.excluded is None:
            cells[run.size, run.tokens, run.seed].append(run)
    found: set[str] = set()
    for cell in (cell for cell in cells.values() if len(cell) > 1):
        keys = {key for run in cell for key in run.config if not key.startswith(NOT_VARIED)}
        found |= {key for key in keys if len({str(run.config.get(key)) for run in cell}) > 1}
    if any(key.startswith("match.") for key in found):
        found = {key for key in found if not key.startswith(SHAPED)}
    return sorted(found, key=lambda key: (key != BUDGET, key))


def _told(key: str, run: Run) -> str:
    value: Any = run.config.get(key)
    if key != BUDGET:
        return f"{key.rpartition('.')[2]}={value}"
    layers, heads, width = (
        run.config.get(f"model.{part}", 0) for part in ("num_hidden_layers", "num_attention_heads", "head_dim")
    )
    whole = 4 * layers * heads * width  # keys and values of two bytes
    if not whole or run.kv_bytes_per_token == whole:  # the budget was not for MHA as the reference
        return ""
    return "own KV" if value is None else f"{bytes_of(BUDGET, value) / whole:.2g} of MHA's KV"
