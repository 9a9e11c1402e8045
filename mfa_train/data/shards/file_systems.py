"""File systems of fsspec's, used again from thread to thread: to make one takes a tenth of a second and connections of
its own, and fsspec keeps one for each thread alone, of which every fetch has a new one.

Those that work asynchronously (S3, GCS, HTTP) are shared by all threads; of the others each is one thread's at a time.
"""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator

import fsspec
from fsspec import AbstractFileSystem


class FileSystems:
    """Those of URLs, by their folders."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: dict[str, list[AbstractFileSystem]] = defaultdict(list)

    @contextlib.contextmanager
    def of(self, url: str, new: bool) -> Iterator[tuple[AbstractFileSystem, str]]:
        """(file system, path) of `url`. One that raises is not used again, and none is that was there before a `new`
        one: it may still be waiting for a server that is silent."""
        key = url.rpartition("/")[0]
        with self.lock:
            if new:
                self.idle.pop(key, None)
            found = self.idle[key].pop() if self.idle[key] else None
            if found is None:
                found = fsspec.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)[0]
            if found.async_impl:
                self.idle[key].append(found)
        # A chain of protocols has paths of its own for each URL.
        path = fsspec.url_to_fs(url)[1] if "::" in url else found._strip_protocol(url)
        try:
            yield found, path
        except Exception:
            with self.lock:
                # By what it is: to fsspec all of one storage are equal.
                self.idle[key] = [other for other in self.idle[key] if other is not found]
            raise
        if not found.async_impl:
            with self.lock:
                self.idle[key].append(found)
