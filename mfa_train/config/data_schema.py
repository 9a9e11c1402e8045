"""The part of the schema that is about the corpus: of what it is made, and in what order it is read."""

from dataclasses import dataclass
from typing import Any

from mfa_train.config.places import in_mapping, place
from mfa_train.config.quantities import Bytes
from mfa_train.config.requirements import WIDTH, require_folder_name, require_positive
from mfa_train.errors import ConfigError

BYTES = 2**60


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
    """Stretches of the corpus that are read side by side; see `mfa_train.data.reading.order`."""
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
