"""The weights of one state of a run, under Hugging Face's names: its final ones, or a checkpoint's, read one at a time.

Each state may have the average of the weights beside (training.ema): `final-ema`, `step-N-ema`. Of a checkpoint only
the float32 masters are read, or their average, and of them what is asked for: its files are held against their
sizes, and against their checksums only where that is asked for, as for that all must be read.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfa_train.attention import attention_config
from mfa_train.attention.stages import config_of_step
from mfa_train.checkpoints.folders import AVERAGED, folder_of, newest_first, plausible, step_of, verified
from mfa_train.checkpoints.manifest import Damaged, manifest_of
from mfa_train.checkpoints.safetensors_folder import FILE, INDEX, TensorFolder, files_of
from mfa_train.checkpoints.tensor_files import EMA, CheckpointReader
from mfa_train.checkpoints.tokenizer import FINAL, FINAL_EMA, tokenizer_of
from mfa_train.config import Config
from mfa_train.data.shards.store import sha256_of
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import ConfigError, DataError, UserError
from mfa_train.feed_forward.names import held_in, in_model, on_disk, stretches
from mfa_train.model.decoder import LanguageModel, weights_of_model
from mfa_train.tracking.records import read_object
from mfa_train.words import brief

STEP = re.compile(r"step-(\d{1,18})", re.ASCII)
SUM, SUM_FORMAT = "sha256.json", 1
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""By `precision`."""
HELD_IN = {"BF16": torch.bfloat16, "F32": torch.float32}
"""Final weights, by the name in their file."""


def final_checkpoint(run: Path, averaged: bool = False) -> Path:
    """The folder of a run's final weights, or of their average, and tokenizer."""
    return run / "checkpoints" / (FINAL_EMA if averaged else FINAL)


def averaged_state(checkpoint: str) -> str:
    """The name of the state `checkpoint`'s averaged weights."""
    return f"{checkpoint.removesuffix(AVERAGED)}{AVERAGED}"


class RunWeights(ABC):
    """The weights of a run in one state. Their `config` is the run's as it was then (`config_of_state`)."""

    folder: Path
    """Where they lie."""
    step: int
    """After which they are."""
    dtype: torch.dtype
    """In which they were evaluated."""
    averaged: bool = False
    """Whether they are the average that training.ema keeps."""
    manifest: Mapping[str, Any] = {}
    """Of a checkpoint: what it holds beside its tensors. Final weights have none."""

    def __init__(self, config: Config, shapes: Mapping[str, tuple[int, ...]]):
        self.config = config
        self.in_model = shapes
        """By name in the model."""
        self.shapes = on_disk(shapes)
        """By name, in the model's order. A tied head is not among them."""

    @property
    def is_final(self) -> bool:
        return self.folder.name in (FINAL, FINAL_EMA)

    @property
    def name(self) -> str:
        """As --checkpoint takes it."""
        return averaged_state(self.folder.name) if self.averaged else self.folder.name

    @property
    def tokens(self) -> int:
        """Trained on until then."""
        return self.step * self.config.training.tokens_per_step

    @property
    def sequence_length(self) -> int:
        """On which they were trained last."""
        return self.config.training.stage_of(self.step - 1).sequence_length

    @abstractmethod
    def read(self, name: str, start: int, out: Tensor) -> None:
        """Writes values of one of them, flattened, from `start` on, into out (length,). Raises UserError."""

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One of them in `dtype`, or as it was evaluated, by its name or by that in the model: memory of its own.
        Raises UserError."""
        is_on_disk = name in self.shapes
        shape = self.shapes[name] if is_on_disk else self.in_model[name]
        out = torch.empty(math.prod(shape), dtype=held_in(name, dtype or self.dtype))
        (self.read if is_on_disk else self.read_parameter)(name, 0, out)
        return out.view(shape)

    def read_parameter(self, name: str, start: int, out: Tensor) -> None:
        """`read` of a parameter by its name in the model, which may be several weights. Raises UserError."""
        begin = 0
        for weight, place, length in stretches(name, self.in_model[name], start, len(out)):
            self.read(weight, place, out[begin : begin + length])
            begin += length

    def tokenizer(self) -> Tokenizer:
        """Raises DataError."""
        return tokenizer_of(self.config, self.folder)


class FinalWeights(RunWeights):
    """checkpoints/final or final-ema."""

    def __init__(self, folder: Path, config: Config, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__(config, shapes)
        self.folder, self.step, self.averaged = folder, config.training.total_steps, folder.name == FINAL_EMA
        try:
            self.files = TensorFolder(folder)
            self.dtype, *_ = (HELD_IN[file.tensors[name].dtype] for name, file in self.files.file_of.items())
        except (OSError, UserError, ValueError, KeyError) as error:
            others = _others(folder.parent.parent, folder)
            raise DataError(f"{folder}: the weights cannot be read ({error}){others}") from error
        _require_same(self.shapes, self.files.shapes, folder / (FILE if len(self.files.files) == 1 else INDEX))

    def read(self, name: str, start: int, out: Tensor) -> None:
        self.files.read(name, start, out)


class CheckpointWeights(RunWeights):
    """The masters of checkpoints/step-N, or their average. `content`: of its manifest."""

    def __init__(
        self,
        folder: Path,
        content: dict,
        config: Config,
        shapes: Mapping[str, tuple[int, ...]],
        averaged: bool = False,
    ):
        super().__init__(config, shapes)
        self.folder, self.step, self.manifest, self.averaged = folder, content["step"], content, averaged
        stretches = content["progress"].get("stretches") or [{}]
        self.dtype = DTYPES.get(stretches[-1].get("precision", config.precision), torch.float32)
        try:
            self.reader = CheckpointReader(folder, content)
        except Damaged as error:
            raise DataError(f"{folder}: {error}") from error
        held = {name: self.reader.length(name) for name in self.reader.names}
        _require_same({name: (torch.Size(shape).numel(),) for name, shape in shapes.items()}, held, folder)

    def read(self, name: str, start: int, out: Tensor) -> None:
        try:
            parameter, begin = in_model(name, self.shapes[name])
            self.reader.read(EMA if self.averaged else "master", parameter, begin + start, out)
        except Damaged as error:
            if self.folder.is_dir():
                raise DataError(f"{self.folder}: {name} cannot be read ({error})") from error
            raise ConfigError(
                f"--checkpoint {self.name}: the run removed it while it was read, as it keeps the newest "
                f"{self.config.checkpoint.keep_last}{_others(self.folder.parent.parent)}"
            ) from error


def weights_of(run: Path, config: Config, checkpoint: str = FINAL, *, verify: bool = False) -> RunWeights:
    """The weights of the run in `run`: `checkpoint` is final, or step-N; of their average, final-ema or step-N-ema.
    With `verify` its files are held against
    their checksums, where else a checkpoint's sizes must do. Raises ConfigError where there is no such state, or the
    checkpoint is damaged, DataError where the weights can't be read, or are another model's."""
    config = config_of_state(config, checkpoint)
    shapes = shapes_of(config)
    state, averaged = checkpoint.removesuffix(AVERAGED), checkpoint.endswith(AVERAGED)
    checkpoints, final = run / "checkpoints", final_checkpoint(run, averaged)
    if state == FINAL:
        if averaged and final_checkpoint(run).is_dir() and not final.is_dir():
            raise ConfigError(f"{_no_average(run, config, checkpoint)}: there is no {final}")
        if not final.is_dir():
            raise ConfigError(f"{run}: the run has no final weights at {final}; it has not finished{_others(run)}")
        if verify:
            _verify(run, final)
        return FinalWeights(final, config, shapes)
    if not (named := STEP.fullmatch(state)):
        raise ConfigError(f"--checkpoint {brief(checkpoint)}: expected final or step-N, as step-100{_others(run)}")
    folder = folder_of(checkpoints, int(named[1]))
    if not folder.is_dir():
        raise ConfigError(f"--checkpoint {checkpoint}: {checkpoints} has no {folder.name}{_others(run, folder)}")
    try:
        content = verified(folder) if verify else manifest_of(folder)
        if not plausible(folder):
            raise Damaged("not all of its files are there and whole")
    except (Damaged, OSError) as error:
        raise ConfigError(f"--checkpoint {checkpoint}: {folder} is damaged: {error}{_others(run, folder)}") from error
    if averaged and EMA not in content:
        raise ConfigError(f"{_no_average(run, config, checkpoint)}: {folder} holds none")
    return CheckpointWeights(folder, content, config, shapes, averaged)


def config_of_state(config: Config, checkpoint: str) -> Config:
    """A run's config with the attention as it was where `checkpoint` was made: amid a training.sequence_schedule its
    rotations may be others than at the end."""
    return config_of_step(config, step_of_state(config, checkpoint) - 1)


def step_of_state(config: Config, checkpoint: str) -> int:
    """Behind how many steps a run was in `checkpoint`, as `weights_of` takes it."""
    named = STEP.fullmatch(checkpoint.removesuffix(AVERAGED))
    return int(named[1]) if named else config.training.total_steps


def _no_average(run: Path, config: Config, checkpoint: str) -> str:
    """That the average that `checkpoint` asks for, by its own name or by --ema, is not there, and what to type."""
    ema = "null" if config.training.ema is None else config.training.ema
    return (
        f"{run} has no average of the weights of {checkpoint.removesuffix(AVERAGED)} (training.ema={ema}); leave "
        "--ema, or -ema behind --checkpoint, out"
    )


def record_sums(final: Path, sums: Mapping[str, str]) -> None:
    """Leaves the SHA-256 of each file of final weights beside them. Raises OSError."""
    content = {"format": SUM_FORMAT, **sums}
    (final / SUM).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _verify(run: Path, final: Path) -> None:
    """Raises ConfigError where final weights are not those that were written, or nothing says so."""
    try:
        content = read_object(final / SUM) or {}
        files = sorted(set(files_of(final).values()))
        differing = [name for name in files if sha256_of(final / name) != content.get(name)]
    except FileNotFoundError as error:
        raise ConfigError(
            f"--verify: {final} has no checksum, as it is of an older version, or damaged{_others(run, final)}"
        ) from error
    except UserError as error:
        raise ConfigError(f"--verify: {final} is damaged: {error}{_others(run, final)}") from error
    except OSError as error:
        raise ConfigError(f"--verify: {final} cannot be read ({error.strerror}){_others(run, final)}") from error
    if differing or content.get("format") != SUM_FORMAT:
        raise ConfigError(f"--verify: {final / (differing or files)[0]} differs from its checksum{_others(run, final)}")


def shapes_of(config: Config) -> dict[str, tuple[int, ...]]:
    """Of the weights of the config's model, by name in the model (on disk: `mfa_train.feed_forward.names`)."""
    with torch.device("meta"):
        model = LanguageModel(config.model, attention_config(config.attention))
    return {name: tuple(weight.shape) for name, weight in weights_of_model(model).items()}


def _others(run: Path, but: Path | None = None) -> str:
    """What could be typed instead of `but`: the nearest of the run's checkpoints first, or else the newest."""
    checkpoints, final = run / "checkpoints", final_checkpoint(run)
    there = [path for path in newest_first(checkpoints) if path != but and plausible(path)]
    if but is not None and but.name not in (FINAL, FINAL_EMA):
        there.sort(key=lambda path: abs(step_of(path) - step_of(but)))
    names = [path.name for path in there] + ([FINAL] if final.is_dir() and but != final else [])
    if not names:
        return "; it has no whole checkpoint either"
    return f"; type --checkpoint {names[0]}" + (f" (or {', '.join(names[1:4])})" if names[1:] else "")


def _require_same(expected: Mapping[str, tuple[int, ...]], there: Mapping[str, tuple[int, ...]], path: Path) -> None:
    for name, shape in expected.items():
        if there.get(name) != shape:
            found = f"in {there[name]}" if name in there else "not there"
            raise DataError(
                f"{path}: {name} is {found}, where the run's config.yaml says {shape}; the "
                "folder was changed by hand, or is damaged: train again with resume=never"
            )
