"""What the runs are grouped by: the attention, and whatever else was varied at one size, token budget and seed.

A variant of two KV budgets is named by its share of MHA's cache, and one of another learning rate by its multiple of
the usual one, since both, unlike bytes and rates, are the same at every size. A value that more than half of an
attention's runs have is the usual one, and goes untold.
"""

from collections import Counter, defaultdict
from collections.abc import Callable

from mfa_train.config.budget_schema import CACHE_BYTES, entry_bytes
from mfa_train.config.effects import BOOKKEEPING, EXECUTION, OBSERVATION
from mfa_train.config.quantities import bytes_of
from mfa_train.errors import ConfigError, did_you_mean
from mfa_train.scaling.study.growing import KEY as SCHEDULE
from mfa_train.scaling.study.growing import schedule_of
from mfa_train.scaling.study.mixtures import KEY as KIND
from mfa_train.scaling.study.plain_files import shown
from mfa_train.scaling.study.runs import Run
from mfa_train.tracking.records import number

NOT_VARIED = (
    *BOOKKEEPING,
    *EXECUTION,
    *OBSERVATION,
    "data.name",
    "guard.",
    "plan.",
    "seed",
    "training.steps",
    "training.tokens",
)
"""Keys that make no variant: a run's budget, its bookkeeping, and what changes no number."""
SHAPED = (
    "model.intermediate_size",
    "model.feed_forward.moe_intermediate_size",
    "model.feed_forward.n_routed_experts",
    "attention.",
    "match.params",
)
"""Keys that follow from `match`, and differ from size to size."""
WIDTHS = ("_lora_rank", "head_dim")
"""Ends of the attention's keys that go with head_dim from size to size."""
BUDGET, RATE = "match.kv_bytes_per_token", "optimizer.lr"
Wording = Callable[[str, Run], str]
"""How a variant's name says what a run has under a key; empty where it goes without saying."""


def name_variants(runs: list[Run], by: tuple[str, ...] = ()) -> None:
    """Sets each run's `variant`: of its attention and of the config keys `by`, or of those found to be varied.

    Raises ConfigError for a key of `by` that no run's config holds.
    """
    known = sorted({key for run in runs for key in run.config})
    for key in by:
        if not known:
            raise ConfigError(
                f"--by {shown(key)}: tables of points have no configs; their variants are the column group"
            )
        if key not in known:
            raise ConfigError(f"--by {shown(key)}: no such key in the runs' configs.{did_you_mean(key, known)}")
    attentions = defaultdict(list)
    for run in runs:
        if run.config:
            attentions[run.attention].append(run)
    _set_precision(runs)
    word_of = _wording(runs)
    for attention, members in attentions.items():
        keys = [key for key in by if key != "attention.name"] if by else _varied(members)
        # One that is left out changes no other's name.
        usable = [run for run in members if run.excluded is None] or members
        untold = [] if by else [key for key in keys if key != BUDGET]
        usual = {word for key in untold if (word := _usual([word_of(key, run) for run in usable]))}
        for run in members:
            words = [word_of(key, run) for key in keys]
            run.variant = " ".join([str(attention), *(word for word in words if word and word not in usual)])


def _set_precision(runs: list[Run]) -> None:
    """Sets what precision=auto meant in each run's config, where it meant another thing on another machine."""
    meant = [run for run in runs if run.excluded is None and run.precision]
    if len({run.precision for run in meant}) > 1:
        for run in meant:
            run.config["precision"] = run.precision


def settings_that_differ(one: Run, other: Run) -> set[str]:
    """Keys of two runs' configs that make a difference, but for the attention and what follows from it."""
    ours, theirs = ({key: str(value) for key, value in run.config.items()} for run in (one, other))
    return {
        key
        for key in ours.keys() & theirs.keys()
        if ours[key] != theirs[key] and not key.startswith((*NOT_VARIED, *SHAPED, "match."))
    }


def _cells(runs: list[Run]) -> list[list[Run]]:
    """The usable runs of each size, token budget and seed."""
    cells = defaultdict(list)
    for run in runs:
        if run.excluded is None and run.config:
            cells[run.size, run.tokens, run.seed].append(run)
    return list(cells.values())


def _usual(values: list) -> object | None:
    """The value that more than half of them are; None where none is."""
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _varied(runs: list[Run]) -> list[str]:
    """The keys in which runs of one size, token budget and seed differ, and those of the attention in which runs of one
    size do."""
    found: set[str] = set()
    for cell in (cell for cell in _cells(runs) if len(cell) > 1):
        keys = {key for run in cell for key in run.config if not key.startswith(NOT_VARIED)}
        found |= {key for key in keys if len({str(run.config.get(key)) for run in cell}) > 1}
    if any(key.startswith("match.") for key in found):
        found = {key for key in found if not key.startswith(SHAPED)}
    if len({schedule_of(run.config) for run in runs if run.excluded is None}) > 1:
        found.add(SCHEDULE)  # of whatever cells: no law is of both
    return sorted(found | _shapes_by_hand(runs), key=lambda key: (key != BUDGET, key))


def _shapes_by_hand(runs: list[Run]) -> set[str]:
    """Keys of the attention in which runs of one size differ though all that `match` was given is the same: not its
    doing."""
    matched = defaultdict(list)
    for run in (run for cell in _cells(runs) for run in cell):
        given = (str(value) for key, value in sorted(run.config.items()) if key.startswith("match."))
        matched[(run.size, *given)].append(run)
    return {
        key
        for same in matched.values()
        for key in same[0].config
        if key.startswith("attention.")
        and not key.startswith(NOT_VARIED)
        and len({str(run.config.get(key)) for run in same}) > 1
    }


def _wording(runs: list[Run]) -> Wording:
    """How keys are worded, of all runs. A learning rate is a multiple of the usual one of its size, token budget and
    seed, whatever the attention, where all of these have one; a width of the attention is one of head_dim where that
    differs."""
    widths = {run.config.get("model.head_dim") for run in runs if run.config}
    usual = {id(run): _usual([other.config.get(RATE) for other in cell]) for cell in _cells(runs) for run in cell}
    rates = defaultdict(list)
    for run in runs:
        rates[run.size].append(run.config.get(RATE))
    rates_known = None not in usual.values()

    def word_of(key: str, run: Run) -> str:
        value = run.config.get(key)
        if key == SCHEDULE:
            return schedule_of(run.config) or "one length"
        if key == KIND:
            return shown(value)
        if key == BUDGET:
            return _share(run, value)
        if key == RATE and value and rates_known:
            base = usual.get(id(run)) or _usual(rates[run.size])  # a run that is left out has no cell
            if base:
                return "" if value == base else f"lr×{value / base:.3g}"
        width = run.config.get("model.head_dim")
        if key.startswith("attention.") and key.endswith(WIDTHS) and number(value) and width and len(widths) > 1:
            return f"{key.rpartition('.')[2]}={value / width:.3g}·head_dim"
        return f"{key.rpartition('.')[2]}={shown(value)}"

    return word_of


def _share(run: Run, budget: object) -> str:
    """A KV budget as a share of MHA's cache; nothing where the run's is MHA's."""
    layers, heads, width = (
        run.config.get(f"model.{part}") or 0 for part in ("num_hidden_layers", "num_attention_heads", "head_dim")
    )
    dtype = run.config.get("plan.cache_dtype")
    dtype = dtype if dtype in CACHE_BYTES else "bf16"
    whole, values = layers * entry_bytes(2 * heads * width, 2, dtype), 2 * layers * heads * width
    without_scales = values * CACHE_BYTES[dtype]  # which fp8 was counted by once
    if not whole or run.kv_bytes_per_token in (whole, without_scales):  # the budget was not for MHA as the reference
        return ""
    return "own KV" if budget is None else f"{bytes_of(BUDGET, budget) / whole:.3g} of MHA's KV"
