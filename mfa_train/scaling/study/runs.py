"""A run as `compare` sees it, and what its numbers can be."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mfa_train.scaling.study.evaluations import Evaluations

PARAMS_WITHIN = 0.02
"""How far the parameters of models of one size may differ, as a share."""
TOKENS_WITHIN = 0.01
"""Token budgets as near as that are one."""
FLOPS_WITHIN = 1e-4
"""FLOPs as near as that are equal."""
BOUNDS = {
    "loss": (1e-6, 1e3),
    "params": (1e-6, 1e16),
    "tokens": (1e-6, 1e19),
    "flops": (1e-6, 1e36),
    "kv_bytes_per_token": (1e-6, 1e15),
}
"""What such a number can be, whatever its unit: beyond them it is no measurement, and fits would be of it alone."""


class DataOrder(NamedTuple):
    """What decides which samples are trained on in which order, from which start, and so whether two runs are a
    pair."""

    tokenizer: str
    """Its fingerprint, or what stands for it; of a table's row the table."""
    train_text: str | None
    """The fingerprint of the training tokens; None where the run holds none."""
    seed: Any
    sequence_length: Any
    draw: Any = None
    """model.initialization.draw: by another one the weights start elsewhere at the same seed."""
    schedule: str | None = None
    """In which lengths the samples were cut, where that was asked for; see `mfa_train.scaling.study.growing`."""

    @property
    def corpus(self) -> tuple[str, str | None]:
        """What was trained on, in whatever order."""
        return self.tokenizer, self.train_text


class HeldOut(NamedTuple):
    """What a run was evaluated on."""

    tokenizer: str
    """Its fingerprint, or what stands for it."""
    text: str | None
    """The fingerprint of the held-out tokens; None where the run holds none."""
    sequences: Any
    """How many, 0 for all."""
    sequence_length: Any

    @property
    def windows(self) -> tuple:
        """Which stretches of the text: what losses of one text must share to be of the same tokens."""
        return self.sequences, self.sequence_length


@dataclass(slots=True)
class Run:
    """One trained model. Counts are None where a table of points doesn't tell them."""

    name: str
    source: str
    """The folder, or FILE:LINE."""
    status: str = "finished"
    attention: str | None = None
    variant: str = ""
    params: float | None = None
    """N as the study counts it (`Study.parameters`): of the next three, or as a table has it."""
    total_params: float | None = None
    non_embedding_params: float | None = None
    active_params: float | None = None
    """That one token meets: of a dense model all."""
    tokens: float | None = None
    flops: float | None = None
    loss: float | None = None
    """Held out, in the study's unit (`Study.loss_unit`): one of the next two, or as a table has it."""
    nats_per_token: float | None = None
    bits_per_byte: float | None = None
    kv_bytes_per_token: float | None = None
    decode_flops_per_token: float | None = None
    """Of one decoded token behind `plan.context` cached ones, by the run's plan."""
    seconds: float | None = None
    seed: Any = None
    size: str | None = None
    """Depth and width: what runs of one size share, whatever their attention."""
    order: DataOrder | None = None
    evaluated_on: HeldOut | None = None
    trace: dict[str, Any] = field(default_factory=dict)
    """config_sha256, data, code_commit, versions: what made the run."""
    config: dict[str, Any] = field(default_factory=dict)
    """Flat, keys dotted."""
    shape: dict[str, Any] = field(default_factory=dict)
    curve: list[dict] = field(default_factory=list)
    edited: bool = False
    """Its config.yaml is not the one that it was trained with."""
    precision: str | None = None
    """What precision=auto meant where it was trained; None where it isn't known."""
    damaged_records: int = 0
    """Of metrics.jsonl."""
    by_position: dict[int, float] = field(default_factory=dict)
    """Held-out loss in nats per token of targets up to each position, behind the one before; empty where the run did
    not tell it."""
    by_position_before: dict[int, float] = field(default_factory=dict)
    """The same before the first step, of a run that began with weights that were there."""
    evaluations: Evaluations = field(default_factory=lambda: Evaluations({}, [], False))
    """Of its last state, on tasks."""
    excluded: str | None = None
    """Why the run takes no part, in one line."""


def beyond(what: str, value: float | None) -> str | None:
    """Why a number cannot be what it is said to be."""
    least, most = BOUNDS[what]
    if value is None or least <= value <= most:
        return None
    return f"its {what} is {value:.3g}, expected {least:g} to {most:g}"
