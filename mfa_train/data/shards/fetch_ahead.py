"""Shards, or parts of them, made ready before they are read: fetched, or hashed the first time, while steps go on."""

import threading
from collections.abc import Sequence

from mfa_train.data.shards.shards import Shards
from mfa_train.errors import DataError

THREADS = 4


class FetchAhead:
    """Makes parts of `corpora` ready in threads of its own, which run only while there is something to do."""

    def __init__(self, corpora: Sequence[Shards]):
        self.corpora = corpora
        self.asked: set[tuple[int, int]] = set()
        self.queue: list[tuple[int, int]] = []
        self.lock, self.running = threading.Lock(), 0
        self.idle = not any(shards.store.needs_time(shard) for shards in corpora for shard in shards.shards)

    def towards(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Has `wanted`, pairs (corpus, part), made ready in that order; forgets what was wanted before."""
        with self.lock:
            if not self.asked.issuperset(wanted):
                self.queue = list(wanted)  # those that are ready, too: the cache keeps what was used last
            self.asked = set(wanted)
            start = min(THREADS - self.running, len(self.queue))
            self.running += start
        for _ in range(start):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self.lock:
                if not self.queue:
                    self.running -= 1
                    return
                corpus, part = self.queue.pop(0)
            try:
                self.corpora[corpus].ready(part)
            except (DataError, OSError):
                pass  # whoever reads it tries again, and tells
