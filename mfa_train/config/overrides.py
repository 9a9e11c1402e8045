"""What is typed, in Hydra's grammar and as it was meant.

1. Text typed for a key that holds text is that text: `name=2026_11_28`, `data.path=/a (b)/c=d`. Hydra alone would read
   a number, or not read it. In quotes it is what Hydra reads in them; ${KEY} stands for that key's value, \\${ for
   itself.
2. In a sweep commas part values; within quotes and brackets they don't.
3. `written` is the way back: what is handed on to another process arrives as it was.
"""

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args, get_origin

from hydra.core.override_parser.types import Quote, QuotedString

from mfa_train.config.quantities import MOST_DIGITS, NUMBER
from mfa_train.config.schema import Config
from mfa_train.config.typed import leaves
from mfa_train.errors import ConfigError

CONFIG_DIR = Path(__file__).resolve().parent.parent.parent / "configs"
WORD = re.compile(r"(?P<sign>\+{0,2})(?P<key>[\w./-]+)(?P<package>@[\w.:]*)?=(?P<value>.*)", re.DOTALL | re.ASCII)
QUOTED = re.compile(r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")\s*""", re.DOTALL)
PLAIN = re.compile(r"(?!(?:null|true|false|inf|nan)$)[a-z_/][\w./-]*", re.ASCII | re.IGNORECASE)
READ_OTHERWISE = re.compile(rf"\s*(?:[+-]?(?:{NUMBER}|inf|nan)|true|false|null)\s*", re.ASCII | re.IGNORECASE)
"""What Hydra takes for a number or another word of its own."""
NUMBER_OR_TEXT = ("plan.mfu",)
CLOSING = {"(": ")", "[": "]", "{": "}"}


def as_meant(words: Sequence[str]) -> list[str]:
    """Overrides of one run, so that Hydra reads them as they were meant. Raises ConfigError."""
    return [_as_meant(word) for word in words]


def key_of(word: str) -> str:
    """The key of KEY=VALUE, +KEY=VALUE or ~KEY."""
    return word.split("=")[0].lstrip("+~").split("@")[0]


def holds_text(key: str) -> bool:
    """Whether what is typed for `key` may be text that Hydra would read otherwise."""
    return _kind(key) is not None


def holds_choice(key: str) -> bool:
    """Whether `key` is a group, whose value is one of its files."""
    return _kind(key) == "choice"


def values(word: str) -> list[str]:
    """`KEY=VALUE` of each value of a word that is typed in a sweep."""
    key, _, value = word.partition("=")
    if key_of(word) in NUMBER_OR_TEXT and os.path.exists(value):  # a folder with commas in its name
        return [word]
    return [f"{key}={part}" for part in parts(value)]


def parts(text: str) -> list[str]:
    """What commas part, outside quotes and brackets; \\, is a comma that doesn't."""
    found = _parts(text, brackets=True) or _parts(text, brackets=False)
    return [part if QUOTED.fullmatch(part) else part.replace("\\,", ",") for part in map(str.strip, found)]


def _parts(text: str, brackets: bool) -> list[str]:
    """At least one part; none where a bracket is left open."""
    found: list[str] = []
    begin, place, opened, before = 0, 0, "", ","
    while place < len(text):
        sign = text[place]
        if sign in "'\"" and before in ",[({:" and (quoted := QUOTED.match(text, place)):
            place, before = quoted.end(), sign
            continue
        if sign == "\\":
            place += 1
        elif brackets and sign in CLOSING:
            opened += CLOSING[sign]
        elif opened and sign == opened[-1]:
            opened = opened[:-1]
        elif sign == "," and not opened:
            found.append(text[begin:place])
            begin = place + 1
        before = before if sign.isspace() else sign
        place += 1
    return [] if opened else [*found, text[begin:]]


def written(value: object, literally: bool = True) -> str:
    """As an override's value, which gives it back exactly; else ${KEY} in it stands for that key's value."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(written(one, literally) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_written_key(key)}:{written(one, literally)}' for key, one in value.items())}}}"
    if isinstance(value, str) and not literally:
        return _quoted(value)
    if isinstance(value, str):
        return _quoted(re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value))
    return "null" if value is None else str(value)


def literal(text: str) -> str:
    """`text` with \\${ for ${ as what it stands for."""
    return re.sub(r"(\\+)\$\{", lambda found: "\\" * (len(found[1]) // 2) + "${", text)


def _written_key(key: object) -> str:
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", str(key))


def _quoted(text: str) -> str:
    return text if PLAIN.fullmatch(text) else QuotedString(text, Quote.single).with_quotes()


def _as_meant(word: str) -> str:
    _require_readable(word)
    found = WORD.fullmatch(word)
    if not found or (kind := _kind(found["key"])) is None or QUOTED.fullmatch(value := found["value"]):
        return word
    if kind == "list":
        meant = _list_as_meant(value)
    elif kind == "choice" or found["key"] in NUMBER_OR_TEXT:
        meant = _choice_as_meant(value, kind)
    elif re.fullmatch("null", value.strip(), re.IGNORECASE):
        return word
    else:
        meant = _quoted(value)
    return word[: len(word) - len(value)] + meant


def _list_as_meant(value: str) -> str:
    inner = re.fullmatch(r"\s*\[(.*)\]\s*", value, re.DOTALL)
    if not inner:
        return value if re.fullmatch(r"\s*(null)?\s*", value, re.IGNORECASE) else _quoted(value)
    found = parts(inner[1])
    if not all(found):
        return value
    return f"[{','.join(part if QUOTED.fullmatch(part) or part == 'null' else _quoted(part) for part in found)}]"


def _choice_as_meant(value: str, kind: str) -> str:
    """A choice of a group, or what may be a number too."""
    if kind == "choice":
        taken = READ_OTHERWISE.fullmatch(value) and not re.fullmatch(r"\s*null\s*", value, re.IGNORECASE)
        return _quoted(value.strip()) if taken else value
    return value if READ_OTHERWISE.fullmatch(value) else _quoted(value)


def _require_readable(word: str) -> None:
    """Raises ConfigError for what would be lost, or is Hydra's own."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{word}: holds bytes that are not UTF-8") from None
    if re.match(r"[+~]*hydra([./@=]|$)", word):
        raise ConfigError(f"{word}: Hydra's own settings are fixed here; the run's folder is runs_dir/name")
    if _kind(key_of(word)) is None and any(len(run) > MOST_DIGITS for run in re.findall(r"[\d_]+", word)):
        raise ConfigError(f"{word}: a number of more than {MOST_DIGITS:,} digits")


@functools.cache
def _kinds() -> dict[str, str]:
    """text | list (of text) | choice (of a group), by key."""
    found = {path.name: "choice" for path in CONFIG_DIR.iterdir() if path.is_dir()}
    for key, kind in leaves(Config):
        if kind is str or key in NUMBER_OR_TEXT:
            found[key] = "text"
        elif get_origin(kind) is list and get_args(kind)[0] is str:
            found[key] = "list"
    return found


def _kind(key: str) -> str | None:
    return _kinds().get(key)
