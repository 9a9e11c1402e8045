"""A prepared corpus: its tokenizer, the shards of each split, and manifest.json, which vouches for them.

A split's shards are SPLIT-00000.bin/.idx, SPLIT-00001.bin/.idx, …, in the order of the documents, or shards made
elsewhere (preparing/megatron.py). The folder may lie behind a URL; then manifest and tokenizer (tokenizer.model or
tokenizer.json) are read when it is opened, and shards as they are needed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from mfa_train.data.manifest import SPLITS, read_manifest
from mfa_train.data.shards.cache import ShardCache, is_url
from mfa_train.data.shards.shard import Shard
from mfa_train.data.shards.shards import Shards
from mfa_train.data.shards.store import ShardStore, remember_verified, sha256_of
from mfa_train.data.tokenizer import open_recorded
from mfa_train.errors import ConfigError, DataError


class Corpus:
    """The corpus at `path`, a folder or a URL; what lies behind URLs passes through `cache`. With `check` every file on
    disk is read and held against the manifest's checksum now, instead of each shard when it is first read. `manifest`:
    what another process has read of it just now, which need not be fetched again.

    Raises DataError where it is incomplete or damaged.
    """

    def __init__(self, path: Path | str, cache: ShardCache, check: bool = False, manifest: dict | None = None):
        self.path = str(path)
        self.manifest = read_manifest(self.path, cache) if manifest is None else manifest
        self.store = ShardStore(self.path, cache)
        name, sha256 = self.manifest["tokenizer_file"], self.manifest["tokenizer_sha256"]
        if is_url(self.path):
            tokenizer = cache.fetch(f"{self.path}/{name}", sha256)
        else:
            tokenizer = Path(self.path) / name
            self._vouch(tokenizer, sha256)
        try:
            self.tokenizer = open_recorded(tokenizer, self.manifest.get("separator_token"), self.manifest["eos_token"])
        except ConfigError as error:  # it was right when the corpus was prepared
            raise DataError(
                f"{self.path}/manifest.json: not of this tokenizer, or damaged ({' '.join(str(error).split())}); "
                "remove "
                f"{self.path} and prepare it again"
            ) from error
        self.vocab_size = self.tokenizer.vocab_size
        self.train, self.held_out = (
            Shards(self.store, [Shard.of(entry) for entry in self.entries(split)], self.vocab_size) for split in SPLITS
        )
        if check and not is_url(self.path):
            self._vouch_for_all()

    def entries(self, split: str) -> list[dict[str, Any]]:
        """What the manifest tells of a split's shards."""
        return self.manifest["splits"][split]["shards"]

    def identity(self) -> dict[str, Any]:
        """What makes its training tokens these and no others, wherever they lie."""
        return {
            "tokens": self.train.num_tokens,
            "tokenizer": self.manifest["tokenizer_sha256"][:16],
            "shards": self.fingerprint("train")[:16],
        }

    def fingerprint(self, split: str) -> str:
        """Of a split's tokens and how they lie in shards."""
        told = [
            [entry["tokens"], entry.get("first_token", 0), entry["dtype"], entry["sha256"]]
            for entry in self.entries(split)
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _vouch_for_all(self) -> None:
        paths = {}
        for entry in (entry for split in SPLITS for entry in self.entries(split)):
            parts = {"parts": entry["parts"]["sha256"]} if "parts" in entry else {}
            for suffix, sha256 in (entry["sha256"] | parts).items():
                location = self.store.location(Shard.of(entry), f".{suffix}")
                if sha256 is not None and not is_url(location):
                    paths[Path(location)] = sha256
        for path, sha256 in paths.items():
            self._vouch(path, sha256)
        for folder in {path.parent for path in paths}:
            remember_verified([path for path in paths if path.parent == folder])

    def _vouch(self, path: Path, sha256: str) -> None:
        if not path.is_file() or sha256_of(path) != sha256:
            raise DataError(
                f"{path}: {'damaged' if path.is_file() else 'missing'}; remove {self.path} and prepare the corpus again"
            )
