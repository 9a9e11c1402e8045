"""Where a corpus's shards lie, and how one gets ready to be read: on disk and as the manifest vouches for it.

A shard on disk is hashed once, when it is first read; `.FOLDER.verified.json` beside its folder remembers size and time
of change, so that the next run need not. A shard behind a URL is fetched into the cache (cache.py), which hashes what
it fetches: in parts (parts.py) where these have checksums, or nothing of it has, else whole.
"""

import hashlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mfa_train.data.shards.cache import ShardCache, is_url
from mfa_train.data.shards.parts import DIGEST_BYTES, PART_BYTES, Parts, sum_of
from mfa_train.data.shards.shard import Shard
from mfa_train.errors import DataError


class ShardStore:
    """The shards of the corpus at `folder`, a path or URL; those behind URLs pass through `cache`."""

    def __init__(self, folder: Path | str, cache: ShardCache):
        self.folder, self.cache = str(folder), cache
        self.locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self.verified: dict[Path, dict] = {}
        self.sums: dict[str, bytes] = {}
        """The content of the .parts files that were needed so far: a thirty-thousandth of their shards."""

    def location(self, shard: Shard, suffix: str = ".bin") -> str:
        name = f"{shard.name}{suffix}"
        return name if is_url(name) or os.path.isabs(name) else f"{self.folder.rstrip('/')}/{name}"

    def needs_time(self, shard: Shard) -> bool:
        """Whether `ready` would have to hash or fetch it, as far as the notes tell: no file of a corpus is looked at,
        of which a thousand ranks would look at all."""
        location = self.location(shard)
        if is_url(location):
            return True  # it may leave the cache again
        path = Path(location)
        return shard.sha256 is not None and path.name not in self._noted(path.parent)

    def in_parts(self, shard: Shard) -> bool:
        """Whether it is fetched in parts, each a file of its own."""
        return self.part_tokens(shard) < shard.tokens

    def part_tokens(self, shard: Shard) -> int:
        """Tokens of each part that it is made ready in, but for the last: all of them where that is the whole shard."""
        part_bytes = shard.parts.bytes if shard.parts else PART_BYTES if shard.sha256 is None else None
        if part_bytes is None or not is_url(self.location(shard)):
            return shard.tokens
        return min(shard.tokens, part_bytes // np.dtype(shard.dtype).itemsize)

    def ready(self, shard: Shard, part: int = 0) -> Path:
        """The file on this machine that holds the part, or all of the shard, checked. Raises DataError, naming it,
        where that can't be."""
        location = self.location(shard)
        with self.locks[f"{location} {part}"]:  # the thread that fetches ahead may be at it
            if is_url(location):
                if self.in_parts(shard):
                    return self._part(shard, location, part)
                return self.cache.fetch(location, shard.sha256)
            path = Path(location)
            if not path.is_file():
                raise DataError(f"{path}: missing; prepare the corpus again")
            if shard.sha256 is not None and not self._verified(path):
                if sha256_of(path) != shard.sha256:
                    raise DataError(
                        f"{path}: damaged (its checksum is not the manifest's); remove {self.folder} and prepare "
                        "the corpus again"
                    )
                self.verified[path.parent] = remember_verified([path])
            return path

    def _part(self, shard: Shard, location: str, part: int) -> Path:
        begin, end = shard.span
        size = self.part_tokens(shard) * np.dtype(shard.dtype).itemsize
        sha256 = sum_of(self._sums(shard, shard.parts, -(-(end - begin) // size)), part) if shard.parts else None
        return self.cache.fetch(location, sha256, (begin + part * size, min(begin + (part + 1) * size, end)))

    def _sums(self, shard: Shard, parts: Parts, count: int) -> bytes:
        """What the .parts file of a shard of `count` parts holds."""
        name = self.location(shard, ".parts")
        with self.locks[name]:
            if name not in self.sums:
                file = self.cache.fetch(name, parts.sha256, (0, count * DIGEST_BYTES))
                self.sums[name] = file.read_bytes()
            return self.sums[name]

    def _verified(self, path: Path) -> bool:
        return path.is_file() and self._noted(path.parent).get(path.name) == _stamp(path)

    def _noted(self, folder: Path) -> dict:
        if folder not in self.verified:
            self.verified[folder] = _remembered(folder)
        return self.verified[folder]


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**24):
            digest.update(part)
    return digest.hexdigest()


def remember_verified(paths: Sequence[Path]) -> dict:
    """Notes beside the folder of `paths` that their content was held against the manifest; returns all notes there.
    Where nothing can be written, nothing is, and the next run hashes them again."""
    notes = _notes(paths[0].parent)
    partial = notes.with_name(f"{notes.name}.{os.getpid()}-{threading.get_ident()}")
    told = _remembered(paths[0].parent) | {path.name: _stamp(path) for path in paths}
    try:
        partial.write_text(json.dumps(told), encoding="utf-8")
        os.replace(partial, notes)  # of two at once one's notes may be lost
    except OSError:
        partial.unlink(missing_ok=True)
    return told


def _notes(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.verified.json")


def _remembered(folder: Path) -> dict:
    try:
        notes = json.loads(_notes(folder).read_text(encoding="utf-8"))
        return notes if isinstance(notes, dict) else {}
    except (OSError, ValueError):
        return {}


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
