"""What `init_from` names: a folder of weights in Hugging Face's names, a run, or a checkpoint of one."""

import dataclasses
import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mfa_train import config as configs
from mfa_train.attention import attention_config
from mfa_train.checkpoints.folders import newest_first, verify_files
from mfa_train.checkpoints.manifest import digest
from mfa_train.checkpoints.safetensors_folder import TensorFolder
from mfa_train.checkpoints.weights import (
    FINAL,
    FinalWeights,
    config_of_state,
    final_checkpoint,
    shapes_of,
    weights_of,
)
from mfa_train.config import Config
from mfa_train.data.tokenizer import FILES, Tokenizer, open_vocabulary
from mfa_train.errors import ConfigError, DataError, UserError
from mfa_train.export.formats import ConfigJson, form_of
from mfa_train.feed_forward.names import on_disk, stretches

EXPECTED = (
    "a folder with config.json and safetensors, as mfa-train export and transformers write them, a run, as "
    "runs/mfa-nano, or one of its checkpoints, as runs/mfa-nano/checkpoints/step-00000100"
)
NO_WEIGHTS = (".rotary_emb.inv_freq",)
"""Ends of names of what older files hold beside weights."""
MODEL = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
)
LARGEST = 2**24
"""Bytes of a config.json."""


class Source(ABC):
    """What was found at `path`, `init_from` as it was typed, to be read for the model of `config`."""

    kind: str
    """run, or the model_type of its config.json."""
    overrides: dict[str, Any]
    """The keys that make its model, attention=NAME and feed_forward=NAME among them."""
    attentions: tuple[str, ...]
    """Of these the other keys say all."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of its weights, by their names there."""

    def __init__(self, path: str, config: Config):
        self.path, self.config = path, config

    @functools.cached_property
    def in_model(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the config's model, by its names."""
        return shapes_of(self.config)

    @functools.cached_property
    def expected(self) -> dict[str, tuple[int, ...]]:
        """What `shapes` would be, were the config's model its own."""
        return on_disk(self.in_model)

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Writes values of the flattened parameter `name` of the config's model, from `start` on, into out (length,).
        Raises DataError."""
        begin = 0
        for weight, place, length in stretches(name, self.in_model[name], start, len(out)):
            self.read_weight(weight, place, out[begin : begin + length])
            begin += length

    @abstractmethod
    def read_weight(self, name: str, start: int, out: Tensor) -> None:
        """The same of one weight, by our name."""

    @property
    def length(self) -> tuple[str, int]:
        """The key of it that says best on how many tokens at once it was trained, and its value."""
        return (key := "model.max_position_embeddings"), self.overrides[key]

    @abstractmethod
    def tokenizer(self) -> Tokenizer | None:
        """What its ids mean; None where no tokenizer lies with the weights. Raises UserError for one that can't be
        read."""

    @abstractmethod
    def sums(self, share: slice) -> dict[str, str]:
        """The SHA-256 of each file of weights in `share`, by its name: all of them are read. A checkpoint's are held
        against its manifest. Raises DataError and OSError."""

    @abstractmethod
    def record(self, sums: Mapping[str, str]) -> dict[str, Any]:
        """What a run's files hold of it, by the `sums` of all shares."""


class Folder(Source):
    """Weights and config.json. Raises UserError."""

    def __init__(self, path: str, config: Config):
        super().__init__(path, config)
        self.folder = Path(path)
        settings = _config_json(self.folder / "config.json")
        form = form_of(settings)
        self.kind, self.attentions = settings.content["model_type"], form.attentions
        self.overrides = form.overrides(settings)
        self.tensors = TensorFolder(self.folder)
        tied = ("lm_head.weight",) if self.overrides["model.tie_word_embeddings"] else ()
        self.shapes = {
            name: shape for name, shape in self.tensors.shapes.items() if not name.endswith((*NO_WEIGHTS, *tied))
        }
        self.form = form(config)

    @functools.cached_property
    def sources(self) -> dict[str, str]:
        """Our name of each of its weights."""
        return self.form.sources(self.in_model)

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """Its name of each of our weights: of one that it holds twice the first."""
        return {ours: theirs for theirs, ours in reversed(self.sources.items())}

    @functools.cached_property
    def expected(self) -> dict[str, tuple[int, ...]]:
        return self.form.shapes(self.in_model) if self.form.has(self.config) else on_disk(self.in_model)

    def read(self, name: str, start: int, out: Tensor) -> None:
        if name in self.names:
            self.read_weight(name, start, out)
        else:
            super().read(name, start, out)

    def read_weight(self, name: str, start: int, out: Tensor) -> None:
        theirs = self.names[name]
        here = functools.partial(self.form.here, theirs)
        self.tensors.read(theirs, start, out, self.form.rows_together(theirs), here)

    def tokenizer(self) -> Tokenizer | None:
        if not any((self.folder / name).is_file() for name in FILES):
            return None
        return open_vocabulary(self.folder)

    def sums(self, share: slice) -> dict[str, str]:
        return self.tensors.sums(share)

    def record(self, sums: Mapping[str, str]) -> dict[str, Any]:
        return {"source": self.path, "kind": self.kind, "sha256": self.tensors.sha256(sums)}


class RunState(Source):
    """A run's final weights, or the masters of one of its checkpoints. Raises UserError."""

    kind = "run"

    def __init__(self, path: str, config: Config, run: Path, state: str):
        super().__init__(path, config)
        theirs = config_of_state(configs.of_run(run), state)
        attention = dataclasses.asdict(attention_config(theirs.attention))
        self.attentions = (theirs.attention["name"],)
        self.overrides = {
            "attention": theirs.attention["name"],
            "feed_forward": theirs.model.feed_forward["name"],
            **{f"model.{key}": getattr(theirs.model, key) for key in MODEL},
            **{f"model.feed_forward.{key}": value for key, value in theirs.model.feed_forward.items() if key != "name"},
            **{f"attention.{key}": value for key, value in attention.items() if key not in ("name", "kernel")},
        }
        if state == FINAL and not final_checkpoint(run).is_dir():
            there = newest_first(run / "checkpoints")
            instead = f"type init_from={there[0]}" if there else "it has no checkpoint either"
            raise ConfigError(f"init_from={path}: the run has no final weights, as it has not finished; {instead}")
        self.weights = weights_of(run, theirs, state)
        self.shapes = self.weights.shapes

    def read_weight(self, name: str, start: int, out: Tensor) -> None:
        self.weights.read(name, start, out)

    @property
    def length(self) -> tuple[str, int]:
        return "training.sequence_length", self.weights.sequence_length

    def tokenizer(self) -> Tokenizer:
        return self.weights.tokenizer()

    def sums(self, share: slice) -> dict[str, str]:
        weights = self.weights
        if isinstance(weights, FinalWeights):
            return weights.files.sums(share)
        entries = weights.manifest["files"][share]
        verify_files(weights.folder, entries)
        return {entry["name"]: entry["sha256"] for entry in entries}

    def record(self, sums: Mapping[str, str]) -> dict[str, Any]:
        weights = self.weights
        summed = weights.files.sha256(sums) if isinstance(weights, FinalWeights) else digest(dict(weights.manifest))
        return {"source": self.path, "kind": self.kind, "step": weights.step, "sha256": summed}


def open_source(typed: str, config: Config) -> Source:
    """What init_from=`typed` names, to be read for the model of `config`. Raises UserError."""
    path = Path(typed)
    try:
        if (path / "config.yaml").is_file():
            return RunState(typed, config, path, FINAL)
        if (state := path.absolute()).parent.name == "checkpoints" and path.is_dir():
            run = state.parent.parent
            if (run / "config.yaml").is_file():
                return RunState(typed, config, run, state.name)
        if (path / "config.json").is_file():
            return Folder(typed, config)
    except UserError as error:
        told = str(error).replace("--checkpoint ", f"init_from={path.parent}/")
        raise type(error)(told if told.startswith("init_from=") else f"init_from={typed}: {told}") from error
    if path.is_dir():
        raise ConfigError(f"init_from={typed}: it has neither config.json nor config.yaml; expected {EXPECTED}")
    raise ConfigError(
        f"init_from={typed}: no such folder; expected {EXPECTED} (a model of the Hugging Face Hub comes into one with "
        "hf download NAME --local-dir FOLDER)"
    )


def _config_json(path: Path) -> ConfigJson:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected keys with values")
    return ConfigJson(content)
