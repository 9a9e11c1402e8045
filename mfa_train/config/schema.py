"""The typed schema of configs/: one dataclass a group, checked where its values are known.

The node `attention` stays a plain mapping here: its schema belongs to the chosen variant (`mfa_train.attention`), so
that a new variant is one file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfa_train.config.budget_schema import MatchConfig, PlanConfig
from mfa_train.config.data_schema import DataConfig
from mfa_train.config.deepspeed_schema import require_deepspeed
from mfa_train.config.evaluation_schema import EvaluationConfig
from mfa_train.config.launch_schema import ClusterConfig, SweepConfig
from mfa_train.config.model_schema import ModelConfig
from mfa_train.config.parallel_schema import ParallelConfig
from mfa_train.config.places import local
from mfa_train.config.profile_schema import ProfileConfig
from mfa_train.config.reliability_schema import CheckpointConfig, GuardConfig
from mfa_train.config.requirements import (
    MOST_SEED,
    WIDTH,
    require_choice,
    require_folder_name,
    require_number,
    require_positive,
    require_wandb_name,
    require_whole,
)
from mfa_train.config.training_schema import OptimizerConfig, ScheduleConfig, TrainingConfig
from mfa_train.errors import ConfigError
from mfa_train.words import brief

RESUME = ("auto", "must", "never")
PROMPT_BYTES = 2**16


@dataclass
class TrackingConfig:
    """Where the curves go beside metrics.jsonl."""

    wandb: str
    """auto (online when logged in, else offline) | online | offline | disabled."""
    project: str
    entity: str | None
    group: str | None

    def __post_init__(self):
        require_choice("tracking.wandb", self.wandb, ("auto", "online", "offline", "disabled"))
        require_wandb_name("tracking.project", self.project, r"/\#?%:")
        require_wandb_name("tracking.entity", self.entity, r"/\#?%:")
        require_wandb_name("tracking.group", self.group)


@dataclass
class SampleConfig:
    """Generated text: the closing sample of a run, and `mfa-train generate`."""

    prompt: str
    max_new_tokens: int
    temperature: float
    """0: greedy."""
    top_k: int | None
    top_p: float | None

    def __post_init__(self):
        try:
            prompt = len(self.prompt.encode())
        except UnicodeEncodeError:
            raise ConfigError(f"sample.prompt={brief(self.prompt)}: is not UTF-8 text") from None
        if prompt > PROMPT_BYTES:
            raise ConfigError(f"sample.prompt: expected at most {PROMPT_BYTES:,} bytes, not {prompt:,}")
        require_whole("sample.max_new_tokens", self.max_new_tokens, 0, 2**16)
        if self.temperature:  # smaller ones overflow, and differ in nothing from greedy
            require_number("sample.temperature", self.temperature, 1e-6, 1e6)
        if self.top_p is not None and not 1e-6 <= self.top_p <= 1:
            raise ConfigError(f"sample.top_p={self.top_p}: expected a probability from 1e-6 to 1, or null")
        if self.top_k is not None:
            require_positive("sample.top_k", self.top_k, 16 * WIDTH)


@dataclass
class CacheConfig:
    """The cache that text is decoded through."""

    dtype: str
    """Of its entries: auto (the weights' own) | fp32 | bf16 | fp8 (E4M3, a scale for each tensor of a token's
    entry)."""

    def __post_init__(self):
        require_choice("cache.dtype", self.dtype, ("auto", "fp32", "bf16", "fp8"))


@dataclass
class Config:
    """One run."""

    name: str
    runs_dir: str
    data_dir: str
    seed: int
    resume: str
    """auto (go on from the newest whole checkpoint) | must (or refuse) | never (an older run of this name is moved
    aside) | the folder of a checkpoint or of a run, to start from."""
    init_from: str | None
    """The folder whose weights a new run begins with, in Hugging Face's names, or a run's or its checkpoint's; null:
    the initial weights of `model.initialization`. Optimizer, data order and step begin anew, unlike with `resume`."""
    attention: dict[str, Any]
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    zero: int
    """DeepSpeed ZeRO stage (arXiv 1910.02054): 1 shards optimizer state, 2 gradients too, 3 parameters too."""
    offload: str
    """What waits in CPU memory: none | optimizer | parameters (optimizer state too; stage 3)."""
    deepspeed: dict[str, Any]
    """What goes into DeepSpeed's own JSON besides, in its words; see `mfa_train.config.deepspeed_schema`."""
    parallel: ParallelConfig
    precision: str
    """Of weights, activations and gradients: auto (bf16 where the hardware multiplies it, else fp32) | bf16 | fp32.
    Master weights, moments and the loss are float32 always."""
    training: TrainingConfig
    checkpoint: CheckpointConfig
    guard: GuardConfig
    profile: ProfileConfig
    match: MatchConfig
    plan: PlanConfig
    cluster: ClusterConfig
    sweep: SweepConfig
    tracking: TrackingConfig
    sample: SampleConfig
    cache: CacheConfig
    evaluation: EvaluationConfig

    def __post_init__(self):
        require_choice("zero", self.zero, (0, 1, 2, 3))
        require_choice("precision", self.precision, ("auto", "bf16", "fp32"))
        require_choice("offload", self.offload, ("none", "optimizer", "parameters"))
        if self.offload == "optimizer" and self.zero == 0:
            raise ConfigError("offload=optimizer needs a sharded optimizer: type zero=1, zero=2 or zero=3 as well")
        if self.offload == "parameters" and self.zero != 3:
            raise ConfigError(f"offload=parameters needs sharded parameters, not zero={self.zero}: type zero=3 as well")
        require_deepspeed(self.deepspeed)
        self._require_tiles()
        require_folder_name("name", self.name)
        require_whole("seed", self.seed, 0, MOST_SEED)
        for key in ("runs_dir", "data_dir"):
            setattr(self, key, local(key, getattr(self, key)))
        self.data.cache_dir = local("data.cache_dir", self.data.cache_dir)
        self.evaluation.tasks_dir = local("evaluation.tasks_dir", self.evaluation.tasks_dir)
        if self.resume not in RESUME:
            self.resume = local("resume", self.resume, "checkpoint's or a run's folder")
        if self.init_from is not None:
            self.init_from = local("init_from", self.init_from, "folder of weights")

    def _require_tiles(self) -> None:
        given, kind = self.training.mlp_tile_tokens, self.model.feed_forward.get("name")
        if given is not None and kind != "dense":
            raise ConfigError(
                f"training.mlp_tile_tokens={given} with feed_forward={kind}: a dense feed-forward alone is computed in "
                "tiles: type training.mlp_tile_tokens=null"
            )

    @property
    def run_dir(self) -> Path:
        return Path(self.runs_dir) / self.name
