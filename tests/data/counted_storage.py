"""The S3 server of object_storage.py that counts what it gives: each GET of an object, and its bytes.

In a process of its own (`python -m tests.data.counted_storage`) it prints its URL; /-/served there tells what was
served since it was asked before.
"""

import json
import re
import sys
from typing import NamedTuple
from urllib.request import urlopen

from tests.data.object_storage import ObjectStorage


class Served(NamedTuple):
    path: str
    bytes: int


class CountedStorage(ObjectStorage):
    """`repeated`: of objects that nothing holds, the bytes that they repeat, by the ending of their paths: shards of a
    corpus of any size."""

    def __init__(self, repeated: dict[str, bytes] | None = None):
        self.served: list[Served] = []
        self.repeated = repeated or {}
        super().__init__()

    def _answer(self, environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/-/served":
            content, self.served = json.dumps(self.served).encode(), []
            start_response("200 OK", [("Content-Length", str(len(content)))])
            return [content]
        for ending, content in self.repeated.items():
            if environ["REQUEST_METHOD"] == "GET" and path.endswith(ending):
                return self._repeat(path, environ["HTTP_RANGE"], content, start_response)

        def counting(status, headers, *rest):
            if environ["REQUEST_METHOD"] == "GET" and path.count("/") > 1 and status.startswith("2"):
                self.served.append(Served(path, int(dict(headers)["Content-Length"])))
            return start_response(status, headers, *rest)

        return super()._answer(environ, counting)

    def _repeat(self, path, asked, content, start_response) -> list[bytes]:
        begin, last = map(int, re.findall(r"\d+", asked))  # of "bytes=BEGIN-LAST"
        assert begin % len(content) == 0
        size = last + 1 - begin
        self.served.append(Served(path, size))
        span = f"bytes {begin}-{last}/{last + 1}"
        start_response("206 Partial Content", [("Content-Length", str(size)), ("Content-Range", span)])
        return [(content * -(-size // len(content)))[:size]]


def served_by(url: str) -> list[Served]:
    """By a server in another process, since it was asked before."""
    with urlopen(f"{url}/-/served") as answer:
        return [Served(*one) for one in json.load(answer)]


if __name__ == "__main__":
    storage = CountedStorage({ending: bytes.fromhex(part) for ending, part in json.loads(sys.stdin.readline()).items()})
    print(storage.url, flush=True)
    sys.stdin.read()  # until whoever started it ends
