"""Work of one stage while the next is busy: a thread that makes items before they are asked for.

It helps where the work leaves Python's lock: reading, decompressing, encoding.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """`items` in their order, the next one made in a thread of its own meanwhile. What making it raises is raised here;
    the thread ends with the iteration."""
    made: queue.Queue = queue.Queue(maxsize=1)
    given_up = threading.Event()

    def hand_over(item: Item | None, error: BaseException | None) -> None:
        while not given_up.is_set():
            try:
                return made.put((item, error), timeout=0.1)
            except queue.Full:
                pass
        return None

    def make() -> None:
        try:
            for item in items:
                hand_over(item, None)
                if given_up.is_set():
                    return
            hand_over(None, StopIteration())
        except BaseException as error:
            hand_over(None, error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        given_up.set()
