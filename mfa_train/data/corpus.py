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
    """The corpus in `path`. Raises DataError where it is incomplete, or not what its manifest says."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self.tokenizer = Tokenizer(self.path / "tokenizer.model")
        if self.tokenizer.sha256 != self.manifest["tokenizer_sha256"]:
            raise DataError(f"{self.path / 'tokenizer.model'}: not the tokenizer that made these tokens; remove "
                            f"{self.path} and prepare the corpus again")
        self.vocab_size = self.tokenizer.vocab_size
        self.train, self.held_out = (TokenShard(self.path / split) for split in SPLITS)
        for split in SPLITS:
            found, expected = getattr(self, split).num_tokens, self.manifest["splits"][split]["tokens"]
            if found != expected:
                raise DataError(f"{self.path / split}.idx: {found} tokens, but the manifest tells of {expected}; remove "
                                f"{self.path} and prepare the corpus again")

    @property
    def fingerprint(self) -> str:
        """Equal for equal tokens in equal order."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()[:16]


def read_manifest(path: Path) -> dict:
    file = path / "manifest.json"
    if not file.is_file():
        raise DataError(f"{path}: no prepared corpus here (manifest.json is missing); type mfa-train prepare")
    manifest = json.loads(file.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise DataError(f"{file}: format {manifest.get('format')}, expected {FORMAT}; remove {path} and prepare it again")
    return manifest
