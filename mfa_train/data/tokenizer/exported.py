"""A tokenizer as `transformers` reads it, with training's tokens: `tokenizer(text)` begins as a document does in
training, behind the separator, and special tokens' names in a text are text.

    tokenizer.json    the file as training uses it; what it put before or behind a text gives way to the separator
    tokenizer.model   also as tokenizer.json where that can be the same for every text: a BPE with byte fallback that
    normalises
                      nothing, as one trained here. Else transformers lets sentencepiece itself read the file
"""

import json
from typing import Any

from mfa_train.data.tokenizer.base import Tokenizer
from mfa_train.data.tokenizer.huggingface import HuggingFaceTokenizer, engine
from mfa_train.data.tokenizer.sentencepiece_as_json import as_json
from mfa_train.data.tokenizer.sentencepiece_model import SentencePieceTokenizer

TRIED = [
    "",
    " ",
    "  ",
    "a",
    " a",
    "a ",
    "  leading and trailing  ",
    "Two  spaces,\n\n\ttabs\r\n",
    "0123456789",
    "x" * 99,
    "\x00\x01\x7f",
    "Ünïcödé ﬁ ﷺ Å e\u0301 한국어 漢字 🙂👩‍👩‍👧",
    "\u00a0\u3000\u200b\ufeff",
    "▁ own ▁sign▁",
    "<0x41><unk><s></s><pad><|endoftext|>",
]
"""Texts at which tokenizers differ."""


def tokenizer_files(tokenizer: Tokenizer, max_length: int) -> tuple[dict[str, bytes], str]:
    """Files by name, and what must be said of them ("" where nothing must)."""
    told = {
        "bos_token": tokenizer.separator.token,
        "eos_token": tokenizer.separator.token,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return {
            "tokenizer.json": as_file(begun(tokenizer.settings, tokenizer)),
            "tokenizer_config.json": as_file({"tokenizer_class": "PreTrainedTokenizerFast"} | told),
        }, ""
    assert isinstance(tokenizer, SentencePieceTokenizer)
    told |= {"unk_token": tokenizer.processor.id_to_piece(tokenizer.processor.unk_id())}
    files = {"tokenizer.model": tokenizer.content}
    settings = as_json(tokenizer)
    if settings is not None and _same(tokenizer, settings):
        return files | {
            "tokenizer.json": as_file(begun(settings, tokenizer)),
            "tokenizer_config.json": as_file({"tokenizer_class": "PreTrainedTokenizerFast"} | told),
        }, ""
    said = (
        "no tokenizer.json gives the same tokens as this tokenizer.model, which normalises texts or is no BPE with "
        "byte fallback: "
        "transformers (5 or later) reads the model with sentencepiece"
    )
    if tokenizer.spelt is not None:
        said += "; a text's own ▁ becomes a space there, and bytes in training"
    return files | {
        "tokenizer_config.json": as_file(
            {"tokenizer_class": "SentencePieceBackend", "special_tokens_pattern": "bos", "legacy": True} | told
        )
    }, said


def begun(settings: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """`settings` where a text begins with the separator, and nothing else is put before or behind it."""
    name = tokenizer.separator.token
    start, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return settings | {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text],
            "pair": [
                start,
                text,
                {"SpecialToken": {"id": name, "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {name: {"id": name, "ids": [tokenizer.eos_id], "tokens": [name]}},
        }
    }


def _same(tokenizer: SentencePieceTokenizer, settings: dict[str, Any]) -> bool:
    made = engine(tokenizer.path, as_file(settings))
    pieces = [
        piece.decode("utf-8", errors="replace") for piece in tokenizer.pieces[:: 1 + tokenizer.vocab_size // 2000]
    ]
    texts = [*TRIED, " ".join(pieces), "".join(pieces)]
    return [made.encode(text, add_special_tokens=False).ids for text in texts] == [
        ids.tolist() for ids in tokenizer.encode(texts)
    ]


def as_file(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
