"""A Hugging Face tokenizer.json, byte-level (GPT-2, Llama 3, Qwen) or sentencepiece-like (Llama 2, T5).

The names of special tokens in a text are text: a document that spells <|endoftext|> doesn't end there. What each token
stands for is read off the vocabulary, exact for bytes; where the file's normaliser changes texts, what comes back is
the changed text.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from mfa_train.data.tokenizer.base import AT_ONCE_CHANGED, Tokenizer
from mfa_train.data.tokenizer.json_settings import Reach, for_training, model_ids, read_settings, require_bounded, steps
from mfa_train.data.tokenizer.separator import Choice, Tokens, chosen
from mfa_train.errors import ConfigError, DataError
from mfa_train.words import first_line

SPACE = "▁"
AS_IT_IS = "as it is"
"""The kind of a file whose pieces are text with its spaces, the rest in bytes: what `sentencepiece_as_json` writes."""
PROBES = ["A  ﬁ\n\té 漢字 🙂 </s> 123", *(character * 64 + "!b" for character in "a 0é")]
"""Where a file can't work, it fails at one of these when it is opened, not in the middle of a corpus."""


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer.json at `path`. Raises DataError for a file that is none, ConfigError where spaces are lost."""

    def __init__(self, path: Path, choose: Choice = chosen(None)):
        content = path.read_bytes()
        given = read_settings(path, content)
        self.tokenizer = engine(path, content)
        kinds = _kinds(given)
        if not kinds & {"ByteLevel", "Metaspace", AS_IT_IS}:
            raise ConfigError(f"data.tokenizer={path}: neither byte-level nor sentencepiece-like; spaces would be lost")
        self.is_byte_level = "ByteLevel" in kinds
        self.space = " " if AS_IT_IS in kinds else SPACE
        """As pieces spell it, where no Metaspace says how."""
        self.vocabulary = model_ids(path, given)
        require_bounded(path, given)
        added = self.tokenizer.get_added_tokens_decoder()
        for token in given.get("added_tokens") or []:
            if (there := self.tokenizer.token_to_id(token["content"])) != token["id"]:
                raise DataError(
                    f"{path}: gives {token['content']!r} the id {token['id']}, where `tokenizers` counts {there}"
                )
        special = {token.content: number for number, token in added.items() if token.special}
        ordinary = {token.content for token in added.values() if not token.special}
        reach = Reach(given, self.vocabulary)
        self.of_texts = {name for name in self.vocabulary if len(name) == 1 and reach.makes(name)}
        """Tokens of one character, which texts become even where the file calls them special, as a `!` that pads."""
        alphabet = list(_byte_alphabet()) if self.is_byte_level else None
        in_texts = self.of_texts | reach.of_unknown_text(alphabet)
        separator = choose(
            Tokens(
                path,
                {name: number for name, number in special.items() if name not in in_texts},
                self.tokenizer.token_to_id,
                lambda name: name not in in_texts and (name in ordinary or not reach.makes(name)),
            )
        )
        if not separator.in_texts:
            special[separator.token] = separator.id
        self.settings = for_training(given, special, reach)
        """The file as training uses it."""
        if self.settings != given:
            self.tokenizer = engine(path, json.dumps(self.settings).encode())
        with failing(f"{path}: fails at encoding a text"), _silent():
            self.tokenizer.encode_batch_fast(PROBES, add_special_tokens=False)
        self.vocab_size = 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())
        if given.get("normalizer"):
            self.at_once = AT_ONCE_CHANGED
        super().__init__(path, content, separator)

    @cached_property
    def known(self) -> np.ndarray:
        known = np.zeros(self.vocab_size, dtype=bool)
        known[list(self.tokenizer.get_vocab(with_added_tokens=True).values())] = True
        return known

    def name_of(self, token: int) -> str:
        return self.tokenizer.id_to_token(token) or ""

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        with failing(f"{self.path}: fails at encoding a text"):
            return [
                np.array(encoded.ids, dtype=np.int32)
                for encoded in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ]

    def _pieces(self) -> list[bytes]:
        pieces = [b""] * self.vocab_size
        model = self.settings["model"]
        falls_back = model.get("byte_fallback", False)
        alphabet = _byte_alphabet()
        before, behind = (
            model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")
        )  # signs of the model's own, no text
        space = next(
            (
                step["replacement"]
                for step in steps(self.settings, "pre_tokenizer", "decoder")
                if step.get("type") == "Metaspace"
            ),
            self.space,
        )
        for piece, token in self.tokenizer.get_vocab(with_added_tokens=False).items():
            if piece == model.get("unk_token") or model.get("unk_id") == token:
                continue
            if behind and piece.endswith(behind):
                piece = piece.removesuffix(behind) + ("Ġ" if self.is_byte_level else space)
            if before and piece != before:
                piece = piece.removeprefix(before)
            if self.is_byte_level:
                pieces[token] = bytes(alphabet[character] for character in piece if character in alphabet)
            elif falls_back and re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
                pieces[token] = bytes([int(piece[3:5], 16)])
            else:
                pieces[token] = piece.replace(space, " ").encode()
        for token, added in self.tokenizer.get_added_tokens_decoder().items():
            if not added.special:
                pieces[token] = added.content.encode()
            elif added.content not in self.of_texts:
                pieces[token] = b""
        return pieces


def engine(path: Path, content: bytes):
    """`content` as `tokenizers` reads it, for texts alone. Raises DataError."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, it warns at every fork of a run
    os.environ.setdefault("RUST_BACKTRACE", "0")
    import tokenizers

    with failing(f"{path}: not a tokenizer.json that `tokenizers` reads"), _silent():
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
    tokenizer.encode_special_tokens = True
    return tokenizer


@contextlib.contextmanager
def failing(told: str) -> Iterator[None]:
    """Turns what `tokenizers` raises into a DataError: bare Exceptions, and panics, which are none."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{told} ({first_line(error)})") from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """A panic of `tokenizers` prints its stack on stderr, past Python."""
    kept = os.dup(2)  # where it is closed, `report` has opened it
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _kinds(settings: dict) -> set[str]:
    """ByteLevel, Metaspace: what the file does to text before and after its model; AS_IT_IS where that is nothing."""
    kinds, model = set(), settings["model"]
    if (
        model.get("type") == "BPE"
        and model.get("byte_fallback") is True
        and " " in model["vocab"]
        and not any(settings.get(step) for step in ("normalizer", "pre_tokenizer"))
    ):
        kinds.add(AS_IT_IS)
    for step in steps(settings, "normalizer", "pre_tokenizer", "decoder"):
        kinds.add(step.get("type", ""))
        if step.get("type") == "Replace" and SPACE in (step.get("content"), *step.get("pattern", {}).values()):
            kinds.add("Metaspace")  # as Llama 2's file spells it
    return kinds


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte (Radford et al. 2019, `bytes_to_unicode` of its code)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
