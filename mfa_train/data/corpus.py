"""A prepared corpus: tokenizer.model, train.bin/.idx, held_out.bin/.idx, and manifest.json, which vouches for them."""

import hashlib
import json
from pathlib import Path

from mfa_train.data.token_shards import TokenShard
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import DataError

SPLITS = ("train", "held_out")
FORMAT = 1


class Corpus:
    """The corpus in `path`; with `check`, every file is read and held against the manifest's checksum.

    Raises DataError where it is incomplete or damaged.
    """

    def __init__(self, path: Path | str, check: bool = False):
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        if check:
            self._vouch("tokenizer.model", self.manifest["tokenizer_sha256"])
            for split in SPLITS:
                for suffix, sha256 in self.manifest["splits"][split]["sha256"].items():
                    self._vouch(f"{split}.{suffix}", sha256)
        self.tokenizer = Tokenizer(self.path / "tokenizer.model")
        self.vocab_size = self.tokenizer.vocab_size
        self.train, self.held_out = (TokenShard(self.path / split) for split in SPLITS)

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
            manifest["splits"][split]["sha256"]["bin"]
        manifest["tokenizer_sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file}: not a manifest (damaged?); remove {path} and prepare it again") from error
    return manifest
