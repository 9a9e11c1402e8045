"""The typed schema of configs/, and the only module that knows OmegaConf and Hydra.

Hydra composes configs/ and the command line into one tree; `from_hydra` turns it, once, into the plain objects below.
The node `attention` stays a plain mapping here: its schema belongs to the chosen variant (`mfa_train.attention`), so
that a new variant is one file.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mfa_train.errors import ConfigError, did_you_mean

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"
Schema = TypeVar("Schema")

ComposeError = (HydraException, OmegaConfBaseException)
"""What Hydra raises for what is typed; `explained` says it in one line."""

OmegaConf.register_new_resolver("times", lambda factor, value: int(factor * value), replace=True)


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
        for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "max_position_embeddings"):
            require_positive(f"model.{key}", getattr(self, key))
        if not self.rms_norm_eps > 0:
            raise ConfigError(f"model.rms_norm_eps={self.rms_norm_eps}: expected a small number above 0, as 1e-6")
        require_not_negative("model.initialization.std", self.initialization.std)
        require_choice("model.initialization.method", self.initialization.method,
                       ("normal", "scaled", "mfa", "zero_output"))


@dataclass
class DataConfig:
    """The corpus and where its tokens are kept."""

    source: str
    path: str
    """Folder of the prepared corpus: tokenizer, token shards, manifest."""
    vocab_size: int
    held_out_fraction: float
    """Share of the files that are never trained on."""


@dataclass
class OptimizerConfig:
    """AdamW (arXiv 1711.05101). Matrices are decayed, vectors (norms, gates) not."""

    lr: float
    betas: list[float]
    eps: float
    weight_decay: float

    def __post_init__(self):
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimizer.betas={self.betas}: expected two numbers in [0, 1), as "
                              "optimizer.betas=[0.9,0.95]")
        for key in ("lr", "eps", "weight_decay"):
            require_not_negative(f"optimizer.{key}", getattr(self, key))


@dataclass
class ScheduleConfig:
    """The learning rate as a function of the step; see `mfa_train.training.schedule`."""

    name: str
    warmup_steps: int
    min_lr_ratio: float
    """The last step's learning rate, as a share of the peak."""
    decay_fraction: float
    """Share of the steps that decay (wsd only; cosine and linear decay from the end of the warmup)."""

    def __post_init__(self):
        require_choice("schedule.name", self.name, ("cosine", "linear", "wsd"))
        for key in ("min_lr_ratio", "decay_fraction"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"schedule.{key}={getattr(self, key)}: expected a share between 0 and 1")


@dataclass
class TrainingConfig:
    """How long, in what batches, and how often to look."""

    steps: Optional[int]
    tokens: Optional[int]
    """Instead of steps: rounded up to whole steps."""
    batch_size: int
    """Sequences in a step, all ranks together."""
    micro_batch_size: Optional[int]
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
        for key in ("batch_size", "sequence_length", "log_every", "eval_every"):
            require_positive(f"training.{key}", getattr(self, key))
        for key in ("eval_sequences", "gradient_clipping", "z_loss"):
            require_not_negative(f"training.{key}", getattr(self, key))
        for key in ("steps", "tokens", "micro_batch_size"):
            if getattr(self, key) is not None:
                require_positive(f"training.{key}", getattr(self, key))
        if (self.steps is None) == (self.tokens is None):
            raise ConfigError(
                f"training.steps={self.steps} and training.tokens={self.tokens}: exactly one of them says how long; "
                "type training.tokens=… training.steps=null, or training.steps=… alone"
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
    entity: Optional[str]
    group: Optional[str]

    def __post_init__(self):
        require_choice("tracking.wandb", self.wandb, ("auto", "online", "offline", "disabled"))


@dataclass
class SampleConfig:
    """Generated text: the closing sample of a run, and `mfa-train generate`."""

    prompt: str
    max_new_tokens: int
    temperature: float
    """0: greedy."""
    top_k: Optional[int]
    top_p: Optional[float]

    def __post_init__(self):
        for key in ("temperature", "max_new_tokens"):
            require_not_negative(f"sample.{key}", getattr(self, key))
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"sample.top_p={self.top_p}: expected a probability in (0, 1], or null")
        if self.top_k is not None:
            require_positive("sample.top_k", self.top_k)


@dataclass
class Config:
    """One run."""

    name: str
    runs_dir: str
    data_dir: str
    seed: int
    resume: str
    """auto (a finished run is left as it is) | never (an older run of this name is moved aside)."""
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
    tracking: TrackingConfig
    sample: SampleConfig

    def __post_init__(self):
        require_choice("resume", self.resume, ("auto", "never"))
        require_choice("zero", self.zero, (0, 1, 2, 3))
        require_choice("precision", self.precision, ("auto", "bf16", "fp32"))
        require_choice("offload", self.offload, ("none", "optimizer", "parameters"))
        if self.offload == "optimizer" and self.zero == 0:
            raise ConfigError("offload=optimizer needs a sharded optimizer: type zero=1, zero=2 or zero=3 as well")
        if self.offload == "parameters" and self.zero != 3:
            raise ConfigError(f"offload=parameters needs sharded parameters, not zero={self.zero}: type zero=3 as well")
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise ConfigError(f"name={self.name!r}: expected a plain folder name, as name=my-run")

    @property
    def run_dir(self) -> Path:
        return Path(self.runs_dir) / self.name


def require_choice(key: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value}: expected one of {', '.join(map(str, choices))}")


def require_not_negative(key: str, value: float) -> None:
    if not 0 <= value < float("inf"):  # nan neither
        raise ConfigError(f"{key}={value}: expected a number of at least 0")


def require_positive(key: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{key}={value}: expected a whole number of at least 1")


def typed(schema: type[Schema], node: Any, where: str = "") -> Schema:
    """The mapping `node` as an object of the dataclass `schema`.

    Raises ConfigError, naming the key below `where`, for an unknown key, a missing one or a value of another type.
    """
    prefix = f"{where}." if where else ""
    _check_keys(schema, node, prefix)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{prefix}{error.full_key}{_mistyped(error)}") from error


EXPECTED = {"Integer": "a whole number", "Float": "a number", "bool": "true or false", "Boolean": "true or false"}


def _mistyped(error: OmegaConfBaseException) -> str:
    """What follows the key: `=VALUE: expected …` where the value is of another type."""
    found = re.match(r"Value '(.*)' (?:of type '.*' could not be converted to|is not a valid) (\w+)", _first_line(error))
    return f"={found[1]}: expected {EXPECTED.get(found[2], found[2])}" if found else f": {_first_line(error)}"


def _check_keys(schema: type, node: Any, prefix: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for key, value in node.items():
        if key not in fields:
            raise ConfigError(f"{prefix}{key}: no such key.{did_you_mean(f'{prefix}{key}', [prefix + name for name in fields])}")
        if dataclasses.is_dataclass(fields[key].type) and isinstance(value, dict):
            _check_keys(fields[key].type, value, f"{prefix}{key}.")
    required = {name for name, field in fields.items()
                if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING}
    if missing := sorted(required - set(node)):
        raise ConfigError(f"{prefix}{missing[0]} is missing")


def from_hydra(tree: DictConfig) -> Config:
    """The composed tree as typed objects, interpolations resolved. Raises ConfigError."""
    try:
        node = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error
    for key in ("steps", "tokens"):  # 1e9 is how people write a billion
        if isinstance(value := node["training"][key], float) and value.is_integer():
            node["training"][key] = int(value)
    return typed(Config, node)


def load(overrides: Sequence[str]) -> Config:
    """Composes configs/train.yaml with `overrides` as train.py would. Raises ConfigError."""
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return from_hydra(compose("train", overrides=list(overrides)))
    except HydraException as error:
        raise explained(error) from error


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def of_run(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of the run in `folder`, with `overrides` of keys it holds. Raises ConfigError."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder}: no run here (config.yaml is missing); type the run's folder, as runs/mfa-nano")
    try:
        tree = OmegaConf.load(path)
        OmegaConf.set_struct(tree, True)
        typed(Config, OmegaConf.to_container(tree))
    except Exception as error:  # YAML's own errors, and those of a file that is no config
        raise ConfigError(f"{path}: not a run's config ({_first_line(error)}); remove or rename {folder}") from error
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        try:
            OmegaConf.update(tree, override.key_or_group, override.value())
        except OmegaConfBaseException:
            known = _flat(OmegaConf.to_container(tree))
            raise ConfigError(f"{override.key_or_group}: no such key.{did_you_mean(override.key_or_group, known)}") from None
    return typed(Config, OmegaConf.to_container(tree))


def differences(old: Config, new: Config) -> list[str]:
    """`key: old -> new` for each value that differs, keys dotted."""
    before, after = (_flat(dataclasses.asdict(config)) for config in (old, new))
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in sorted(before | after)
            if before.get(key) != after.get(key)]


def explained(error: HydraException) -> ConfigError:
    """What Hydra could not compose, in one line with the nearest key or choice that exists."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return ConfigError(f"{group}={choice}: no such choice.{did_you_mean(choice, error.options)}")
    named = re.search(r"Could not override '([^']+)'", str(error))
    if named:
        key, known = named[1], _all_keys()
        if key in known:
            return ConfigError(f"{key}: no such key with these choices; it belongs to another {key.split('.')[0]}")
        return ConfigError(f"{key}: no such key.{did_you_mean(key, known)}")
    if "Ambiguous value" in str(error):
        return ConfigError(f"{_first_line(error)}: several values are a sweep; type python train.py -m …")
    return ConfigError(f"{_first_line(error)}: expected GROUP=CHOICE or KEY=VALUE, as attention=mla training.steps=100")


def _all_keys() -> list[str]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        tree = OmegaConf.to_container(compose("train"), resolve=False)
    groups = [folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir()]
    return sorted({*_flat(tree), *groups})


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {key: value for name, child in node.items()
            for key, value in _flat(child, f"{prefix}.{name}" if prefix else name).items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
