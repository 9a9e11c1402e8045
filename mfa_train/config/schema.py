"""The typed schema of configs/: one dataclass a group, checked where its values are known.

The node `attention` stays a plain mapping here: its schema belongs to the chosen variant (`mfa_train.attention`), so
that a new variant is one file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfa_train.config.budget_schema import MatchConfig, PlanConfig
from mfa_train.config.launch_schema import ClusterConfig, SweepConfig
from mfa_train.config.places import in_mapping, local, place
from mfa_train.config.quantities import Bytes
from mfa_train.config.reliability_schema import CheckpointConfig, GuardConfig
from mfa_train.config.requirements import (
    MOST_SEED,
    STEPS,
    require_choice,
    require_folder_name,
    require_not_negative,
    require_number,
    require_positive,
    require_share,
    require_wandb_name,
    require_whole,
)
from mfa_train.errors import ConfigError

RESUME = ("auto", "must", "never")
WIDTH, LAYERS, BATCH, SEQUENCE = 2**20, 2**20, 2**20, 2**26
"""The largest of a model's and a batch's dimensions: what is beyond is a mistyped number, and overflows in a plan."""
TOKENS = 10**18
"""The most that a run may read: places in the data are 64-bit numbers."""
BYTES, PROMPT_BYTES = 2**60, 2**16


@dataclass
class InitializationConfig:
    """How weights start; see `mfa_train.model.initialization`."""

    method: str
    """normal | scaled | mfa | zero_output."""
    std: float
    """Standard deviation of the normal distribution of every matrix."""


@dataclass
class ModelConfig:
    """The decoder around the attention. Head counts and widths are those of the size's reference MHA."""

    name: str
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    """Of the size's GQA."""
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    """The sequence length the size is meant to train at, in tokens."""
    learning_rate: float
    """Peak learning rate that suits the size."""
    rms_norm_eps: float
    tie_word_embeddings: bool
    initialization: InitializationConfig

    def __post_init__(self):
        for key, most in (
            ("hidden_size", WIDTH),
            ("num_hidden_layers", LAYERS),
            ("intermediate_size", 16 * WIDTH),
            ("num_attention_heads", WIDTH),
            ("num_key_value_heads", WIDTH),
            ("head_dim", WIDTH),
            ("vocab_size", 16 * WIDTH),
            ("max_position_embeddings", SEQUENCE),
        ):
            require_positive(f"model.{key}", getattr(self, key), most)
        require_number("model.rms_norm_eps", self.rms_norm_eps, 1e-30, 1)
        require_not_negative("model.learning_rate", self.learning_rate)
        require_not_negative("model.initialization.std", self.initialization.std)
        require_choice(
            "model.initialization.method", self.initialization.method, ("normal", "scaled", "mfa", "zero_output")
        )


@dataclass
class DataConfig:
    """The corpus and where its tokens are kept; see `mfa_train.data`."""

    source: str
    """python_stdlib | files | hub | megatron | prepared | mixture."""
    name: str
    files: list[str]
    """Paths, patterns or URLs: of texts (files, or a loader of hub) or of token shards (megatron)."""
    held_out_files: list[str]
    """Token shards (megatron) that are never trained on, instead of held_out_fraction."""
    text_key: str
    """Where a JSONL line, a Parquet row or a data set's row has its text."""
    dataset: str | None
    """Of source hub: a name on the Hugging Face Hub, a folder, or a loader."""
    dataset_config: str | None
    dataset_split: str
    tokenizer: str | None
    """null: trained on the corpus; or the path or URL of a sentencepiece model or a tokenizer.json."""
    eos_token: str | None
    """What ends a document in data.tokenizer; null: found by its usual names."""
    path: str
    """Folder of the prepared corpus: tokenizer, token shards, manifest."""
    vocab_size: int
    """Of the tokenizer that is trained; one that is given has its own."""
    held_out_fraction: float
    """Share of the documents that are never trained on."""
    tokenizer_bytes: Bytes
    """Text that the tokenizer is trained on."""
    shard_bytes: Bytes
    """Text in one shard."""
    corpora: dict[str, str] | None
    """Of source mixture: the folder or URL of each prepared corpus, by name."""
    weights: Any
    """Of source mixture: {name: share of the tokens}, or a list of such with from_tokens; see
    `mfa_train.data.reading.mixture`."""
    lanes: int
    """Stretches of the corpus that are read side by side; see `mfa_train.data.reading.samples`."""
    shuffle_tokens: int
    """Tokens of a lane that are shuffled among each other."""
    cache_dir: str
    """Where shards behind URLs are kept, shared by the processes of a node."""
    cache_bytes: Bytes
    document_mask: bool
    """Attention stays within a document and positions restart with each; see `mfa_train.data.reading.documents`."""

    def __post_init__(self):
        for key in ("tokenizer_bytes", "shard_bytes", "shuffle_tokens", "cache_bytes"):
            require_positive(f"data.{key}", getattr(self, key), BYTES)
        require_positive("data.lanes", self.lanes, 2**16)
        require_positive("data.vocab_size", self.vocab_size, 16 * WIDTH)
        for part in self.name.split("/"):
            require_folder_name("data.name", part)
        for key in ("path", "tokenizer", "dataset"):
            if (value := getattr(self, key)) is not None:
                setattr(self, key, place(f"data.{key}", value))
        for key in ("files", "held_out_files", "corpora"):
            if (several := getattr(self, key)) is not None:
                setattr(self, key, in_mapping(f"data.{key}", several))
        if not 0 < self.held_out_fraction < 1:
            raise ConfigError(
                f"data.held_out_fraction={self.held_out_fraction}: expected a share between 0 and 1, as 0.05"
            )


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
    log_every: int
    eval_every: int
    eval_sequences: int
    """Held-out sequences in an evaluation, the same each time; 0: all."""
    gradient_clipping: float
    z_loss: float
    """Weight of the squared log-normaliser of the softmax (PaLM, arXiv 2204.02311, section 5)."""
    activation_checkpointing: bool
    compile: bool

    def __post_init__(self):
        for key, most in (
            ("batch_size", BATCH),
            ("micro_batch_size", BATCH),
            ("sequence_length", SEQUENCE),
            ("log_every", STEPS),
            ("eval_every", STEPS),
            ("steps", STEPS),
            ("tokens", TOKENS),
        ):
            if getattr(self, key) is not None:
                require_positive(f"training.{key}", getattr(self, key), most)
        require_whole("training.eval_sequences", self.eval_sequences, 0, BATCH)
        for key in ("gradient_clipping", "z_loss"):
            require_not_negative(f"training.{key}", getattr(self, key), 1e30)
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

    @property
    def total_steps(self) -> int:
        return self.steps or -(-self.tokens // (self.batch_size * self.sequence_length))

    def micro_batch(self, ranks: int) -> int:
        """Sequences in one pass of one rank. Raises ConfigError where the batch does not divide."""
        per_pass = (self.micro_batch_size or max(1, self.batch_size // ranks)) * ranks
        if self.batch_size % per_pass:
            micro = f"training.micro_batch_size={self.micro_batch_size} × " if self.micro_batch_size else ""
            near = max(per_pass, round(self.batch_size / per_pass) * per_pass)
            raise ConfigError(
                f"training.batch_size={self.batch_size} is not a multiple of {micro}{ranks} ranks; "
                f"the nearest that is: training.batch_size={near}"
            )
        return per_pass // ranks


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
            raise ConfigError(f"sample.prompt={ascii(self.prompt)[:60]}: is not UTF-8 text") from None
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
class Config:
    """One run."""

    name: str
    runs_dir: str
    data_dir: str
    seed: int
    resume: str
    """auto (go on from the newest whole checkpoint) | must (or refuse) | never (an older run of this name is moved
    aside) | the folder of a checkpoint or of a run, to start from."""
    attention: dict[str, Any]
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    zero: int
    """DeepSpeed ZeRO stage (arXiv 1910.02054): 1 shards optimizer state, 2 gradients too, 3 parameters too."""
    offload: str
    """What waits in CPU memory: none | optimizer | parameters (optimizer state too; stage 3)."""
    precision: str
    """Of weights, activations and gradients: auto (bf16 where the hardware multiplies it, else fp32) | bf16 | fp32.
    Master weights, moments and the loss are float32 always."""
    training: TrainingConfig
    checkpoint: CheckpointConfig
    guard: GuardConfig
    match: MatchConfig
    plan: PlanConfig
    cluster: ClusterConfig
    sweep: SweepConfig
    tracking: TrackingConfig
    sample: SampleConfig

    def __post_init__(self):
        require_choice("zero", self.zero, (0, 1, 2, 3))
        require_choice("precision", self.precision, ("auto", "bf16", "fp32"))
        require_choice("offload", self.offload, ("none", "optimizer", "parameters"))
        if self.offload == "optimizer" and self.zero == 0:
            raise ConfigError("offload=optimizer needs a sharded optimizer: type zero=1, zero=2 or zero=3 as well")
        if self.offload == "parameters" and self.zero != 3:
            raise ConfigError(f"offload=parameters needs sharded parameters, not zero={self.zero}: type zero=3 as well")
        require_folder_name("name", self.name)
        require_whole("seed", self.seed, 0, MOST_SEED)
        for key in ("runs_dir", "data_dir"):
            setattr(self, key, local(key, getattr(self, key)))
        self.data.cache_dir = local("data.cache_dir", self.data.cache_dir)
        if self.resume not in RESUME:
            self.resume = local("resume", self.resume, "checkpoint's or a run's folder")

    @property
    def run_dir(self) -> Path:
        return Path(self.runs_dir) / self.name
