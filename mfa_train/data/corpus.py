"""A prepared corpus: its tokenizer, the shards of each split, and manifest.json, which vouches for them.

The tokenizer is tokenizer.model or tokenizer.json. A split's shards are SPLIT-00000.bin/.idx,
SPLIT-00001.bin/.idx, …, in the order of the documents; or shards made elsewhere (megatron.py).
"""

import hashlib
import json
from pathlib import Path

from mfa_train.data.token_shards import TokenShards
from mfa_train.data.tokenizer import open_tokenizer
from mfa_train.errors import DataError

SPLITS = ("train", "held_out")
FORMAT = 3


class Corpus:
    """The corpus in `path`; with `check`, every file is read and held against the manifest's checksum.

    Raises DataError where it is incomplete or damaged.
    """

    def __init__(self, path: Path | str, check: bool = False):
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        shards = {split: self.manifest["splits"][split]["shards"] for split in SPLITS}
        if check:
            self._vouch(self.manifest["tokenizer_file"], self.manifest["tokenizer_sha256"])
            for shard in (shard for split in SPLITS for shard in shards[split]):
                for suffix, sha256 in shard["sha256"].items():
                    if sha256 is not None:
                        self._vouch(f"{shard['name']}.{suffix}", sha256)
        self.tokenizer = open_tokenizer(self.path / self.manifest["tokenizer_file"], self.manifest["eos_token"])
        self.vocab_size = self.tokenizer.vocab_size
        self.train, self.held_out = (TokenShards([self.path / shard["name"] for shard in shards[split]])
                                     for split in SPLITS)

    def _vouch(self, name: str, sha256: str) -> None:
        path = self.path / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise DataError(f"{path}: {'damaged' if path.is_file() else 'missing'}; remove {self.path} and prepare the "
                            "corpus again")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**24):
            digest.update(part)
    return digest.hexdigest()


def read_manifest(path: Path) -> dict:
    file = path / "manifest.json"
    if not file.is_file():
        raise DataError(f"{path}: no prepared corpus here (manifest.json is missing); type mfa-train prepare")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise DataError(f"{file}: format {manifest['format']}, expected {FORMAT}; remove {path} and prepare it again")
        for split in SPLITS:  # a key that is missing is found here
            for shard in manifest["splits"][split]["shards"]:
                shard["name"], shard["sha256"]["bin"]
        manifest["tokenizer_sha256"], manifest["tokenizer_file"], manifest["eos_token"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file}: not a manifest (damaged?); remove {path} and prepare it again") from error
    return manifest
