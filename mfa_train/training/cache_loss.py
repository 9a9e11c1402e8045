"""Held-out loss through caches of several types: what a smaller cache costs, for `mfa-train cache-loss`.

Each window is read as a prompt is: its entries are stored in the cache and read back, and every query attends over what
was read. The reference is the same forward without a cache. Windows, documents and the mean are those of the run's own
evaluation (`steps.evaluation`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mfa_train.attention.cache import DecodeCache
from mfa_train.attention.cache_types import cache_dtype
from mfa_train.attention.documents import Documents
from mfa_train.checkpoints.model import model_of
from mfa_train.checkpoints.weights import final_checkpoint, weights_of
from mfa_train.columns import in_columns
from mfa_train.config import Config
from mfa_train.data.corpora import open_all
from mfa_train.data.reading.batches import WHOLE
from mfa_train.data.reading.documents import ModelInputs
from mfa_train.data.shards.cache import is_url
from mfa_train.errors import ConfigError, DataError
from mfa_train.model.decoder import LanguageModel
from mfa_train.tracking.records import read_object
from mfa_train.training.before_start import read_order
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.run_data import RunData
from mfa_train.training.run_folder.folder import SUMMARY
from mfa_train.training.steps.evaluation import Evaluator

TOKENS_AT_ONCE = 2**14
NONE = "none"
"""In place of a type: no cache, the full forward."""


@dataclass(frozen=True)
class CacheLoss:
    """Of held-out text through one cache."""

    dtype: str
    """As `cache.dtype`; `none` for the full forward."""
    loss: float
    """Nats per token."""
    bits_per_byte: float
    bytes_per_token: int | None
    """Of the cache, all layers; None without one."""


class ThroughCache(nn.Module):
    """The model as an evaluation calls it, over a cache of `dtype` that holds the batch."""

    def __init__(self, model: LanguageModel, dtype: torch.dtype | None):
        super().__init__()
        self.model, self.dtype, self.bytes_per_token = model, dtype, 0

    def forward(self, tokens: Tensor, targets: Tensor, documents: Documents | None = None) -> Tensor:
        cache = DecodeCache(len(self.model.model.layers), tokens.shape[1], self.dtype)
        loss = self.model(tokens, targets, cache=cache, documents=documents)
        self.bytes_per_token = cache.num_bytes // tokens.numel()
        return loss


def cache_losses(config: Config, folder: Path, dtypes: Sequence[str]) -> list[CacheLoss]:
    """Of the run in `folder` by its final weights: without a cache, then through one of each of `dtypes`.

    Raises ConfigError for a type that this machine cannot hold, and where weights or corpus are missing; DataError
    where they are damaged, or no longer those of the run.
    """
    device = torch.device("cpu")
    types = {name: cache_dtype(name, device) for name in dtypes}
    _require_there(config, folder)
    weights = weights_of(folder, config)
    model, tokenizer = model_of(weights), weights.tokenizer()
    data = _data_of(config, device)
    if tokenizer.sha256 != data.tokenizer.sha256:
        raise DataError(
            f"{data.tokenizer.path}: not the tokenizer that {folder} was trained with; type data.path=FOLDER of the "
            "corpus that it was trained on"
        )
    recorded = ((read_object(folder / SUMMARY) or {}).get("data") or {}).get("held_out_sha256")
    if recorded not in (None, data.held_out.fingerprint):
        raise DataError(
            f"data.path={config.data.path}: its held-out text is not what {folder} was evaluated on; type "
            "data.path=FOLDER of the corpus that it was trained on"
        )
    micro_batch = max(1, TOKENS_AT_ONCE // config.training.sequence_length)
    evaluate = Evaluator(data, micro_batch, Ranks(0, 1, device, dist.HashStore()))
    found = [_measured(NONE, evaluate(model), None)]
    for name, dtype in types.items():
        through = ThroughCache(model, dtype)
        found.append(_measured(name, evaluate(through), through.bytes_per_token))
    return found


def table(losses: Sequence[CacheLoss]) -> str:
    """For a person."""
    reference = losses[0]
    rows = [["cache", "loss", "difference", "bits/byte", "bytes a token"]]
    for one in losses:
        is_reference = one.dtype == NONE
        rows.append(
            [
                "none (full forward)" if is_reference else one.dtype,
                f"{one.loss:.5f}",
                "reference" if is_reference else f"{round(one.loss - reference.loss, 5) + 0.0:+.5f}",
                f"{one.bits_per_byte:.5f}",
                "-" if one.bytes_per_token is None else f"{one.bytes_per_token:,}",
            ]
        )
    return "\n".join(in_columns(rows, words={0}))


def _data_of(config: Config, device: torch.device) -> RunData:
    """What the run read; it is not prepared where it is gone. Raises UserError."""
    corpora = open_all(config.data)
    tokenizer = next(iter(corpora.values())).tokenizer
    batches, held_out = read_order(config, corpora, WHOLE)
    return RunData(
        tokenizer, batches, held_out, ModelInputs(device, tokenizer.eos_id if config.data.document_mask else None)
    )


def _require_there(config: Config, folder: Path) -> None:
    if not final_checkpoint(folder).is_dir():
        raise ConfigError(
            f"{folder}: the run has no final weights: type the folder of a finished run, or go on with this one first "
            "(its python train.py command, typed again)"
        )
    data = config.data
    paths = {f"data.corpora.{name}": path for name, path in (data.corpora or {}).items()}
    for key, path in paths.items() if data.source == "mixture" else [("data.path", data.path)]:
        if not is_url(path) and not (Path(path) / "manifest.json").is_file():
            raise ConfigError(
                f"{key}={path}: the corpus that {folder} was evaluated on is not here (seen from {Path.cwd()}): type "
                f"{key}=FOLDER where it lies now"
            )


def _measured(dtype: str, metrics: dict[str, float], bytes_per_token: int | None) -> CacheLoss:
    return CacheLoss(dtype, metrics["val/loss"], metrics["val/bits_per_byte"], bytes_per_token)
