"""What a tokenizer.json says, and the same file as training uses it: nothing is cut, padded or dropped at random, and
no text becomes a special token.

The library can be told not to look for the names of special tokens in a text (`encode_special_tokens`). Yet a model
that has such a name among its own pieces (Unigram, as T5's, where it scores best of all; WordLevel) still makes it. So
the text is cut inside such names before it comes to the model, which then never sees one whole.
"""

import json
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from mfa_train.errors import DataError

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
MOST_GROWTH = 32
LARGEST_ID = 2**22
"""Vocabularies have up to some hundred thousand; what is kept of each id must fit in memory."""


def read_settings(path: Path, content: bytes) -> dict[str, Any]:
    """Raises DataError for what is no JSON object with a model."""
    try:
        settings = json.loads(content)
        if isinstance(settings, dict) and isinstance(settings["model"], dict):
            return settings
        reason = "its model is missing"
    except (ValueError, KeyError) as error:
        reason = f"no model: {error}" if isinstance(error, KeyError) else str(error)
    except RecursionError:
        reason = "nested too deep"
    raise DataError(f"{path}: not a tokenizer.json that `tokenizers` reads ({reason})")


def model_ids(path: Path, settings: dict[str, Any]) -> dict[str, int]:
    """The model's own pieces, of a file that `tokenizers` has read. Raises DataError for ids that are no vocabulary."""
    vocabulary = settings["model"].get("vocab", {})
    if isinstance(vocabulary, list):
        return {piece: token for token, (piece, _) in enumerate(vocabulary)}
    largest = max(vocabulary.values(), default=0)
    if largest >= LARGEST_ID:
        raise DataError(f"{path}: holds the token id {largest:,}; expected ids below {LARGEST_ID:,}")
    if len(set(vocabulary.values())) < len(vocabulary):
        seen: dict[int, str] = {}
        piece, other = next(
            (piece, seen[token]) for piece, token in vocabulary.items() if seen.setdefault(token, piece) != piece
        )
        raise DataError(f"{path}: gives {other!r} and {piece!r} the same id, {vocabulary[piece]}")
    return vocabulary


def steps(settings: dict[str, Any], *names: str) -> Iterator[dict[str, Any]]:
    """The steps `names` (normalizer, pre_tokenizer, decoder), those of sequences one by one."""
    waiting = [settings.get(name) for name in names]
    while waiting:
        step = waiting.pop(0) or {}
        yield step
        for several in ("normalizers", "pretokenizers", "decoders"):
            waiting += step.get(several) or []


def require_bounded(path: Path, settings: dict[str, Any]) -> None:
    """Raises DataError for a normalizer whose replacements, one upon the other, make a text more than MOST_GROWTH times
    as long."""
    replacing = [
        (step["pattern"].get("String"), step["content"])
        for step in steps(settings, "normalizer")
        if step.get("type") == "Replace"
    ]
    growth = [max(1.0, len(content) / len(pattern) if pattern else 1 + len(content)) for pattern, content in replacing]
    compound = max(growth, default=1.0)
    for number, (_, content) in enumerate(replacing[:-1]):
        if any(not pattern or pattern in content for pattern, _ in replacing[number + 1 :]):
            compound *= growth[number]
    if compound > MOST_GROWTH:
        raise DataError(f"{path}: its normalizer can make a text more than {MOST_GROWTH} times as long")


class Reach:
    """What the model of `settings` can make of a text, of its own pieces (`vocabulary`)."""

    def __init__(self, settings: dict[str, Any], vocabulary: dict[str, int]):
        self.model, self.vocabulary = settings["model"], vocabulary

    @cached_property
    def merged(self) -> set[str]:
        return {
            merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge) for merge in self.model["merges"]
        }

    def makes(self, name: str) -> bool:
        if name not in self.vocabulary:
            return False
        return (
            "merges" not in self.model or bool(self.model.get("ignore_merges")) or len(name) == 1 or name in self.merged
        )

    def unnamed(self) -> list[str]:
        """The names of what is no text and may not be called special: what stands for unknown text, and for bytes."""
        return [*([self.unknown] if self.unknown else []), *(BYTES if self.model.get("byte_fallback") else [])]

    @cached_property
    def unknown(self) -> str | None:
        if isinstance(self.model.get("vocab"), list) and self.model.get("unk_id") is not None:
            return self.model["vocab"][self.model["unk_id"]][0]
        return self.model.get("unk_token")

    def of_unknown_text(self, alphabet: list[str] | None) -> set[str]:
        """The token that stands for unknown text, where there may be such: the model lacks one of `alphabet`, which all
        texts are made of, and of BYTES."""
        before, behind = (self.model.get(key) or "" for key in ("continuing_subword_prefix", "end_of_word_suffix"))
        needed = {f"{start}{sign}{end}" for sign in alphabet or () for start in ("", before) for end in ("", behind)}
        falls_back = self.model.get("byte_fallback") and self.vocabulary.keys() >= set(BYTES)
        in_parts = "merges" in self.model or isinstance(self.model.get("vocab"), list)
        complete = needed and in_parts and self.vocabulary.keys() >= needed
        return set() if not self.unknown or falls_back or complete else {self.unknown}


def for_training(settings: dict[str, Any], special: dict[str, int], reach: Reach) -> dict[str, Any]:
    """`settings` where every token of `special` (ids by name) is one, and no text of several characters becomes one."""
    changed = settings | {"model": dict(settings["model"])}
    for key in ("truncation", "padding"):
        if changed.get(key):
            changed[key] = None
    if changed["model"].get("dropout"):
        changed["model"]["dropout"] = None
    added = [
        token | {"special": token.get("special", False) or token["content"] in special}
        for token in settings.get("added_tokens") or []
    ]
    known = {token["content"] for token in added}
    if added := added + [
        {
            "id": token,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name, token in special.items()
        if name not in known
    ]:
        changed["added_tokens"] = added
    if names := sorted({name for name in [*special, *reach.unnamed()] if len(name) > 1 and reach.makes(name)}):
        by_first = {
            first: "|".join(re.escape(name[1:]) for name in same)
            for first, same in groupby(names, lambda name: name[0])
        }
        pattern = "|".join(f"{re.escape(first)}(?={rest})" for first, rest in by_first.items())
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "MergedWithPrevious", "invert": False}
        before = settings.get("pre_tokenizer")
        changed["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*([before] if before else []), split]}
    return changed
