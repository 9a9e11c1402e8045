"""Parts of a shard, each with a checksum of its own, so that a node fetches from a shard what it reads of it.

A shard of more than one part has a file NAME.parts beside NAME.bin: the sha256 of each part, 32 bytes each, one behind
the other. The manifest vouches for that file as for the others.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

PART_BYTES = 2**20
"""Of the parts that are written, and of a shard behind a URL that has no checksum at all."""
LEAST_BYTES = 2**12
"""A whole number of them is a whole number of tokens."""
DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Parts:
    """What manifest.json tells of a shard's parts."""

    bytes: int
    """Of each but the last one."""
    sha256: str
    """Of NAME.parts."""


def write_parts(bin_path: Path, part_bytes: int = PART_BYTES) -> Parts | None:
    """The parts of a shard larger than one, whose checksums are written beside it; else None."""
    if bin_path.stat().st_size <= part_bytes:
        return None
    with bin_path.open("rb") as file:
        content = b"".join(hashlib.sha256(part).digest() for part in iter(lambda: file.read(part_bytes), b""))
    bin_path.with_suffix(".parts").write_bytes(content)
    return Parts(part_bytes, hashlib.sha256(content).hexdigest())


def sum_of(sums: bytes, number: int) -> str:
    """The sha256 of part `number`, of what NAME.parts holds."""
    return sums[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES].hex()
