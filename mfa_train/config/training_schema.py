"""The part of the schema that is about the steps: how many, on what batches, at which rates."""

from dataclasses import dataclass
from typing import Annotated

from mfa_train.config.once import OnceYesOrNo
from mfa_train.config.requirements import (
    SEQUENCE,
    STEPS,
    require_choice,
    require_not_negative,
    require_number,
    require_positive,
    require_share,
    require_whole,
)
from mfa_train.config.sequence_schema import Stage, StageConfig, require_last_stage, require_schedule, stages_of
from mfa_train.errors import ConfigError

CHECKPOINTING = ("none", "selective", "full")
"""Each recomputes more than the one before."""
SELECTIVE = "selective"
BATCH = 2**20
"""The most sequences in a step."""
TOKENS = 10**18
"""The most that a run may read: places in the data are 64-bit numbers."""


@dataclass
class OptimizerConfig:
    """AdamW (arXiv 1711.05101). Matrices are decayed, vectors (norms, gates) not."""

    lr: float
    betas: list[float]
    eps: float
    weight_decay: float

    def __post_init__(self):
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                f"optimizer.betas={self.betas}: expected two numbers in [0, 1), as optimizer.betas=[0.9,0.95]"
            )
        for key in ("lr", "weight_decay"):
            require_not_negative(f"optimizer.{key}", getattr(self, key))
        require_number("optimizer.eps", self.eps, 1e-30, 1e30)  # where a gradient is 0 it alone divides


@dataclass
class ScheduleConfig:
    """The learning rate as a function of the step; see `mfa_train.training.steps.schedule`."""

    name: str
    warmup_steps: int
    min_lr_ratio: float
    """The last step's learning rate, as a share of the peak."""
    decay_fraction: float
    """Share of the steps that decay (wsd only; cosine and linear decay from the end of the warmup)."""

    def __post_init__(self):
        require_choice("schedule.name", self.name, ("cosine", "linear", "wsd"))
        require_whole("schedule.warmup_steps", self.warmup_steps, 0, STEPS)
        for key in ("min_lr_ratio", "decay_fraction"):
            require_share(f"schedule.{key}", getattr(self, key))


@dataclass
class TrainingConfig:
    """How long, in what batches, and how often to look."""

    steps: int | None
    tokens: int | None
    """Instead of steps: rounded up to whole steps."""
    batch_size: int
    """Sequences in a step, all ranks together."""
    micro_batch_size: int | None
    """Sequences in one pass of one rank; null: as many as make one pass a step."""
    sequence_length: int
    sequence_schedule: list[StageConfig] | None
    """Stages of growing length, the last of sequence_length; null: one length. See `config.sequence_schema`."""
    log_every: int
    eval_every: int
    eval_sequences: int
    """Held-out sequences in an evaluation, the same each time; 0: all."""
    gradient_clipping: float
    z_loss: float
    """Weight of the squared log-normaliser of the softmax (PaLM, arXiv 2204.02311, section 5)."""
    ema: float | None
    """Decay of the exponential moving average of the weights; null: none is kept. See `training.steps.average`."""
    activation_checkpointing: Annotated[str, OnceYesOrNo(yes="full", no="none")]
    """What is computed again in the backward pass: none | selective | full."""
    mlp_tile_tokens: int | None
    """Tokens that a dense feed-forward computes at once, and again in the backward pass; null: all. See
    `mfa_train.model.tiles`."""
    compile: bool

    def __post_init__(self):
        for key, most in (
            ("batch_size", BATCH),
            ("micro_batch_size", BATCH),
            ("sequence_length", SEQUENCE),
            ("mlp_tile_tokens", SEQUENCE),
            ("log_every", STEPS),
            ("eval_every", STEPS),
            ("steps", STEPS),
            ("tokens", TOKENS),
        ):
            if getattr(self, key) is not None:
                require_positive(f"training.{key}", getattr(self, key), most)
        require_choice("training.activation_checkpointing", self.activation_checkpointing, CHECKPOINTING)
        if self.compile and self.activation_checkpointing == SELECTIVE:
            raise ConfigError(
                "training.activation_checkpointing=selective with training.compile=true: a compiled layer shows no "
                "operation to keep the results of; type training.activation_checkpointing=full, or none, or "
                "training.compile=false"
            )
        require_whole("training.eval_sequences", self.eval_sequences, 0, BATCH)
        for key in ("gradient_clipping", "z_loss"):
            require_not_negative(f"training.{key}", getattr(self, key), 1e30)
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(
                f"training.ema={self.ema}: expected a number between 0 and 1, as training.ema=0.999, or null for no "
                "average of the weights"
            )
        if (self.steps is None) == (self.tokens is None):
            raise ConfigError(
                f"training.steps={self.steps} and training.tokens={self.tokens}: exactly one of them says how long; "
                "type training.tokens=… training.steps=null, or training.steps=… alone"
            )
        if (tokens := self.total_steps * self.batch_size * self.sequence_length) > 2 * TOKENS:
            raise ConfigError(
                f"training.steps={self.total_steps} of {self.batch_size} × {self.sequence_length} tokens: {tokens:.1e} "
                f"tokens are more than a run can count ({TOKENS:.0e}): type fewer steps"
            )
        if self.sequence_schedule is not None:
            require_schedule(self.sequence_schedule, self.sequence_length, self.tokens_per_step)

    @property
    def total_steps(self) -> int:
        return self.steps or -(-(self.tokens or 0) // self.tokens_per_step)

    @property
    def tokens_per_step(self) -> int:
        """The same in every stage."""
        return self.batch_size * self.sequence_length

    def require_last_stage(self) -> None:
        """Raises ConfigError for a `sequence_schedule` that the run is too short for. Not asked of what runs are made
        of, as a ladder's config."""
        if self.sequence_schedule is not None:
            require_last_stage(self.sequence_schedule, self.tokens_per_step, self.total_steps)

    @property
    def stages(self) -> list[Stage]:
        """Those of `sequence_schedule`; one without."""
        if self.sequence_schedule is None:
            return [Stage(0, self.sequence_length, {})]
        return stages_of(self.sequence_schedule, self.tokens_per_step)

    def stage_of(self, step: int) -> Stage:
        """The stage of a step, the first being 0. The weights that N steps have made are of step N - 1."""
        return next(stage for stage in reversed(self.stages) if stage.first_step <= max(0, step))

    def micro_batch(self, groups: int, context: int = 1) -> int:
        """Sequences in one pass of one of `groups` of `context` ranks, which share sequences. Raises ConfigError where
        the batch does not divide."""
        per_pass = (self.micro_batch_size or max(1, self.batch_size // groups)) * groups
        if self.batch_size % per_pass:
            micro = f"training.micro_batch_size={self.micro_batch_size} × " if self.micro_batch_size else ""
            near = max(per_pass, round(self.batch_size / per_pass) * per_pass)
            those = "ranks" if context == 1 else f"group{'s' if groups > 1 else ''} of parallel.context={context} ranks"
            raise ConfigError(
                f"training.batch_size={self.batch_size} is not a multiple of {micro}{groups} {those}; "
                f"the nearest that is: training.batch_size={near}"
            )
        return per_pass // groups
