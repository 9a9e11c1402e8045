"""A sentencepiece model for the texts at hand."""

import io
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from mfa_train.data.tokenizer.base import cut
from mfa_train.data.tokenizer.json_settings import LARGEST_ID
from mfa_train.errors import ConfigError
from mfa_train.words import first_line

MIN_VOCAB_SIZE = 512
"""Control tokens, 256 bytes and room for the characters."""
LONGEST_LINE = 2**20
"""Bytes. sentencepiece leaves out what is longer, so longer lines are cut, between two words where there are any."""


def train_sentencepiece(texts: Iterable[str], vocab_size: int) -> bytes:
    """A sentencepiece model of exactly `vocab_size` pieces: unk 0, bos 1, eos 2, bytes, then text.

    The same texts give the same bytes. Raises ConfigError for a vocabulary the texts can't fill.
    """
    if vocab_size > LARGEST_ID:
        raise ConfigError(f"data.vocab_size={vocab_size}: expected at most {LARGEST_ID}, as data.vocab_size=32768")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n", "\t"],
            character_coverage=0.9999,
            max_sentence_length=LONGEST_LINE,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(f"data.vocab_size={vocab_size}: {_reason(error)}") from error
    return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.split("\n"):
            if len(line) <= LONGEST_LINE // 4 or len(line.encode()) <= LONGEST_LINE:
                if line:
                    yield line
            else:
                yield from cut(line, LONGEST_LINE // 4)  # a character has up to four bytes


def _reason(error: RuntimeError) -> str:
    told = str(error)
    elsewhere = "data.tokenizer=FILE, a tokenizer made elsewhere (tokenizer.json or tokenizer.model)"
    if most := re.search(r"value <= (\d+)", told):
        if int(most[1]) < MIN_VOCAB_SIZE:
            return (
                f"the training texts are too few for a tokenizer of their own: they give {most[1]} pieces, and it "
                "needs at least "
                f"{MIN_VOCAB_SIZE}; take more text (data.tokenizer_bytes bounds it), or type {elsewhere}"
            )
        return f"sentencepiece cannot make so many pieces of this corpus; type data.vocab_size={most[1]}"
    if required := re.search(r"smaller than required_chars\. \d+ vs (\d+)", told):
        return (
            f"fewer than the characters of this corpus, which take {required[1]} pieces; type "
            f"data.vocab_size={max(MIN_VOCAB_SIZE, int(required[1]))} or more"
        )
    if "sentences_.empty()" in told:
        return f"the training texts have nothing but line breaks to make pieces of; take more text, or type {elsewhere}"
    return f"sentencepiece cannot make a tokenizer of this corpus ({first_line(error)})"
