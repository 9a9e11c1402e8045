"""What manifest.json tells of a shard."""

from dataclasses import dataclass
from typing import Any


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

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Shard":
        return cls(entry["name"], entry["tokens"], entry["dtype"], entry.get("first_token", 0), entry["sha256"]["bin"])
