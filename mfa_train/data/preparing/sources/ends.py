"""A source whose documents can't be parted into two splits, parted inside them: the end of each is held out.

So a single file of text, the first thing people bring, has a held-out split. The same document twice is cut at the same
place.
"""

from collections.abc import Iterator

from mfa_train.data.preparing.sources.document import Document
from mfa_train.data.preparing.sources.tally import Tally


class EndsHeldOut:
    """`source` with each document as one of training and one that is held out: its last `fraction`, from the beginning
    of a line (or of a word, where lines are long) on. A document of one character is all training's."""

    def __init__(self, source, fraction: float):
        self.source, self.fraction = source, fraction
        self.version, self.size = source.version, source.size

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        for document in self.source.documents(tally):
            at = _cut(document.text, self.fraction)
            for part, is_end in ((document.text[:at], False), (document.text[at:], True)):
                if part:
                    yield document._replace(text=part, utf8=part.encode(), is_end=is_end)

    def held_out(self, document: Document, fraction: float) -> bool:
        return document.is_end


def _cut(text: str, fraction: float) -> int:
    """Where the end begins: at or before its share, by no more than as much again."""
    size = min(len(text) - 1, max(1, round(fraction * len(text))))
    at, earliest = len(text) - size, max(1, len(text) - 2 * size)
    for sign in "\n ":
        if (place := text.rfind(sign, earliest - 1, at)) >= 0:
            return place + 1
    return max(at, 1)
