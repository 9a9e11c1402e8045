"""Rows of text as columns that stand on a terminal."""

import unicodedata
from collections.abc import Collection, Sequence

GAP = "  "


def in_columns(rows: Sequence[Sequence[str]], words: Collection[int], widest: int | None = None) -> list[str]:
    """A line for each of `rows`, which have equally many cells. The columns `words` begin at the left, numbers end at
    the right. A cell wider than `widest` sticks out and leaves the other rows readable."""
    widths = [max(map(_width, column)) for column in zip(*rows)]
    if widest is not None:
        widths = [min(widest, width) for width in widths]
    return [
        GAP.join(
            _padded(cell, width, left=column in words) for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def _width(text: str) -> int:
    """Columns on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text
    )


def _padded(text: str, width: int, left: bool) -> str:
    space = " " * (width - _width(text))
    return text + space if left else space + text
