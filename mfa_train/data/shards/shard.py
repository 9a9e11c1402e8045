"""What manifest.json tells of a shard."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mfa_train.data.shards.parts import Parts


@dataclass(frozen=True)
class Shard:
    """Tokens of a split, in one .bin file."""

    name: str
    """Below the corpus's folder; or where it lies, a path or URL, without its ending."""
    tokens: int
    dtype: str
    first_token: int = 0
    """Where this split's tokens begin in the .bin file."""
    sha256: str | None = None
    """Of the .bin file; None for shards made elsewhere, of which it isn't known."""
    parts: Parts | None = None
    """None where its parts have no checksums of their own."""

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Shard":
        parts = Parts(**told) if (told := entry.get("parts")) else None
        first = entry.get("first_token", 0)
        return cls(entry["name"], entry["tokens"], entry["dtype"], first, entry["sha256"]["bin"], parts)

    @property
    def span(self) -> tuple[int, int]:
        """(begin, end) of its tokens in the .bin file, in bytes."""
        size = np.dtype(self.dtype).itemsize
        return self.first_token * size, (self.first_token + self.tokens) * size
