"""How often a run reads each of its corpora, and whether its vocabulary is theirs: read off their manifests, no shard
opened.

What isn't prepared on this machine's disk is not guessed, and what lies behind a URL is not fetched: both are said.
"""

from pathlib import Path

from mfa_train.budget.units import count, ratio
from mfa_train.config import Config
from mfa_train.data.manifest import read_manifest
from mfa_train.data.reading.mixture import Mixture, phases_of
from mfa_train.data.shards.cache import is_url
from mfa_train.errors import DataError

MOST = 4
"""Epochs up to which repeated text was found to be almost as good as new text ("Scaling Data-Constrained Language
Models", arXiv 2305.16264, abstract)."""


def data_of(config: Config) -> dict:
    """`data` of a plan: `vocab_size`, the model's; of each of `sources` its tokens for training, those that the run
    reads, its epochs and its tokenizer's vocabulary, null where `unknown` says why. Raises ConfigError for weights that
    are no shares."""
    data, training = config.data, config.training
    paths = (data.corpora or {}) if data.source == "mixture" else {data.name: data.path}
    weights = data.weights if data.source == "mixture" else dict.fromkeys(paths, 1)
    phases = phases_of(weights, list(paths), training.sequence_length) if paths else []
    samples = training.total_steps * training.batch_size
    given = Mixture(phases).given(samples).tolist() if paths else []
    sources = []
    for (name, path), windows in zip(paths.items(), given):
        tokens, vocabulary, unknown = _read(path)
        read = windows * training.sequence_length
        sources.append(
            {
                "name": name,
                "path": path,
                "tokens": tokens,
                "read": read,
                "epochs": read / tokens if tokens else None,
                "vocab_size": vocabulary,
                "unknown": unknown,
            }
        )
    return {"vocab_size": config.model.vocab_size, "sources": sources}


def _read(path: str) -> tuple[int | None, int | None, str | None]:
    """Tokens for training and the vocabulary of a prepared corpus, or why they aren't known."""
    if is_url(path):
        return None, None, "lies behind a URL, which a plan does not fetch"
    if not (Path(path) / "manifest.json").is_file():
        return None, None, "is not prepared here"
    try:
        manifest = read_manifest(path)
    except DataError as error:
        return None, None, f"cannot be read ({error})"
    return sum(shard["tokens"] for shard in manifest["splits"]["train"]["shards"]), manifest.get("vocab_size"), None


def notes_of(data: dict) -> list[str]:
    """What is to be said of it before it is paid for."""
    notes = []
    for source in data["sources"]:
        if source["unknown"]:
            notes.append(
                f"{source['path']} {source['unknown']}: its epochs are not known, and model.vocab_size="
                f"{data['vocab_size']} is what the config says, not held against a tokenizer"
            )
        elif source["epochs"] is not None and source["epochs"] > MOST:
            notes.append(
                f"warning: {ratio(source['epochs'])} epochs of {source['path']} ({count(source['tokens'])} tokens): "
                f"beyond {MOST} repeated text teaches less and less (arXiv 2305.16264): take more text, or fewer tokens"
            )
        if source["vocab_size"] and source["vocab_size"] != data["vocab_size"]:
            notes.append(
                f"warning: model.vocab_size={data['vocab_size']:,} where the tokenizer of {source['path']} has "
                f"{source['vocab_size']:,}"
            )
    return notes
