"""Secrets are kept out of configs, and so out of run folders, logs and W&B, by a list of what a URL may hold.

    - the host and its port, nothing in front of an @
    - a path of plain characters, without @ (but for a revision of hf://), ; and &
    - of a query the keys of ALLOWED_QUERY, with short plain values
    - no part behind #

A list of what is forbidden would have to know every service's name for a token. Text that is no URL may hold no
`user:password@`, and behind a ? or # no NAME=VALUE but those. What is refused is never repeated.
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from mfa_train.errors import ConfigError
from mfa_train.words import brief

_FLAG, _NAME = "(?:true|false|yes|no|[01])?", r"[\w.-]{1,64}"
ALLOWED_QUERY = {
    "download": _FLAG,
    "raw": _FLAG,
    "dl": _FLAG,
    "alt": "media|json",
    "ref": _NAME,
    "revision": _NAME,
    "version": _NAME,
    "versionId": _NAME,
    "generation": r"\d{1,20}",
}
"""Keys of a URL's query that choose among contents, and their values."""
FREE_TEXT = ("sample.prompt",)
"""Keys whose value is text that the model reads."""

_HOST = re.compile(r"([\w.*{},-]+|\[[0-9a-f:.]+\])?(:\d{1,5})?", re.ASCII | re.IGNORECASE)
_NAMED = re.compile(r"[?#][^/?#]*=")
_SCHEME = re.compile(r"[a-z][\w+.-]*", re.ASCII | re.IGNORECASE)


def require_no_secrets(node: Any, key: str = "") -> None:
    """Raises ConfigError for a string below the plain mapping `node`, names of keys too, in which a URL may hold
    one."""
    for where, text in _strings(node, key):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError(f"{where}={brief(text)}: is not UTF-8 text")
        if reason := may_hold_secret(text):
            raise ConfigError(
                f"{where}: the value as typed (not repeated here) {reason}; credentials stand in the environment, as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )


def may_hold_secret(text: str) -> str | None:
    """What of `text` may be a secret, to be said behind its key; None where nothing is."""
    if "\0" in text:
        return "holds a NUL character"
    seen = text
    for _ in range(3):  # %74oken, %2574oken
        if found := _found(seen):
            return found
        if (decoded := unquote(seen)) == seen:
            return None
        seen = decoded
    return "is percent-encoded more than twice" if "://" in text else None


def hidden(told: str) -> str:
    """`told`, for the terminal, with every word left out in which a URL may hold a secret; KEY= in front stays."""

    def shown(word: re.Match) -> str:
        key = named[0] if (named := re.match(r"[\w.+~-]+=", word[0])) else ""
        value = word[0][len(key) :].rstrip(":;,.")
        return f"{key}(not repeated here){word[0][len(key) + len(value) :]}" if may_hold_secret(value) else word[0]

    return re.sub(r"[^\s'\"()]+", shown, told)


def _found(text: str) -> str | None:
    links = re.sub(r"\[[0-9A-Fa-f:.]+\]", "ipv6", text).split("::")  # of a chain, as simplecache::https://…
    for link in links:
        scheme, separator, rest = link.partition("://")
        if reason := _in_url(scheme, rest) if separator else _in_text(link):
            return reason
    return None


def _in_url(scheme: str, rest: str) -> str | None:
    where, _, query = rest.partition("?")
    host, _, path = where.partition("/")
    if not _SCHEME.fullmatch(scheme.rpartition("=")[2].strip()):
        return "has an odd scheme in front of ://"
    if "#" in rest:
        return "is a URL with a part behind #"
    if "@" in host or ("@" in path and not (scheme.endswith("hf") and re.fullmatch(r"[^:@]*@[^:@]*", path))):
        return "is a URL with an @, in front of which a name or a password stands"
    if not _HOST.fullmatch(host):
        return "is a URL whose host is not a plain name with a port or without"
    if re.search(r"[;&]", path):
        return "is a URL with ; or & in its path"
    return _in_query(query)


def _in_text(text: str) -> str | None:
    if any(":" in word.rpartition("@")[0] for word in text.split()) or re.search(r"(?:^|=)//[^/]*@", text):
        return "has the form of user:password@host"
    if re.match(r"(https?|ftp|s3a?|gs|gcs|az|abfss?|hf):.*[@?#;]", text, re.IGNORECASE):
        return "is a URL without //"
    if "#" in text and _NAMED.search(text[text.index("#") :]):
        return "has a NAME=VALUE behind #"
    return _in_query(text.partition("?")[2]) if _NAMED.search(text) else None


def _in_query(query: str) -> str | None:
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if name not in ALLOWED_QUERY or not re.fullmatch(ALLOWED_QUERY[name], value, re.ASCII):
            return f"is a URL whose query is more than {', '.join(ALLOWED_QUERY)} with a short plain value each"
    return None


def _strings(node: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str) and not where.endswith(FREE_TEXT):
        yield where, node
    elif isinstance(node, dict):
        for name, child in node.items():
            yield where or "a key", str(name)
            yield from _strings(child, f"{where}.{name}" if where else str(name))
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _strings(child, where)
