"""What others wrote (names, values, errors of other libraries) as words of our messages: in one line, not too long, and
nothing in them that a terminal obeys."""

import re
from collections.abc import Sequence

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""What moves a terminal's cursor, colours it, turns what stands behind it around or is half a character; tab and
newline aside."""


def visible(text: str) -> str:
    """`text` with control characters as \\x1b; tab and newline stay."""
    return CONTROL.sub(lambda found: _escaped(found[0]), text)


def in_one_line(text: str) -> str:
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def printable(text: str) -> str:
    """A name: everything that is not shown as itself as \\x1b, line breaks and odd spaces too."""
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def brief(value: object) -> str:
    """A value that was typed, by its beginning where it is long."""
    text = printable(str(value))
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def first_few(told: Sequence[str], most: int = 3) -> list[str]:
    """Of many alike the first, and how many more there are."""
    more = [f"… and {len(told) - most:,} more"] if len(told) > most else []
    return [*told[:most], *more]


def first_line(error: BaseException) -> str:
    """What an error of another library says, or its type where it says nothing."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 300 else f"{line[:300]} …"


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode()
