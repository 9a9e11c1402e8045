"""A small tokenizer of every kind, as people bring them along."""

import io
from functools import cache
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mfa_train.data.tokenizer import train_sentencepiece

TEXTS = [f"def function_{number}(value):\n\treturn value * {number}  # <b>bold</b> naïve\n" for number in range(200)]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ORDINARY = [
    AddedToken("</s>", special=False, normalized=False),
    AddedToken("<|user|>", special=False, normalized=True, rstrip=True),
    AddedToken("function_", special=False, normalized=False, single_word=True),
]
LOSSLESS = {
    "trained here",
    "byte-level",
    "Llama 2's without its prefix",
    "sentencepiece BPE that changes nothing",
    "sentencepiece Unigram that changes nothing",
}


def sentencepiece_like(prefix: str) -> tokenizers.Tokenizer:
    """As Llama 2's tokenizer.json: byte fallback, `prefix` in front of a text."""
    pieces = ["<unk>", "<s>", "</s>", *BYTES, "▁", "a", "b", "▁a", "▁ab", "ab"]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("▁a", "b"), ("a", "b")]
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    in_front = [normalizers.Prepend(prefix)] if prefix else []
    made.normalizer = normalizers.Sequence([*in_front, normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.add_tokens([AddedToken("<mask>", special=False, normalized=True, lstrip=prefix != "")])
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A $B </s>", [("<s>", 1), ("</s>", 2)])
    return made


def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2's, with ordinary tokens added behind, and a file's own beginning of texts."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<bos>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing("<bos> $A", "<bos> $A $B", [("<bos>", 0)])
    return made


def with_added() -> tokenizers.Tokenizer:
    made = byte_level()
    made.add_tokens(ORDINARY)
    made.enable_truncation(5)
    made.enable_padding(length=9)
    return made


def unigram(byte_fallback: bool) -> tokenizers.Tokenizer:
    """As T5's: special tokens among the pieces, with the best score of all."""
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *([(byte, 0.0) for byte in BYTES] if byte_fallback else []),
        ("▁", -2.0),
        ("▁return", -3.0),
        ("value", -3.0),
        *((chr(code), -4.0) for code in range(33, 127) if code != ord("{")),
    ]
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=byte_fallback))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    return made


def word_level() -> tokenizers.Tokenizer:
    words = ["[UNK]", "[EOS]", "▁return", "▁value", "▁*", "▁a"]
    made = tokenizers.Tokenizer(models.WordLevel({word: token for token, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.add_special_tokens(["[UNK]", "[EOS]"])
    return made


def foreign(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=400,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return model.getvalue()


IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
KINDS = {
    "trained here": lambda: train_sentencepiece(TEXTS, 330),
    "byte-level": byte_level,
    "byte-level with ordinary tokens added": with_added,
    "Llama 2's": lambda: sentencepiece_like("▁"),
    "Llama 2's without its prefix": lambda: sentencepiece_like(""),
    "T5's": lambda: unigram(byte_fallback=False),
    "Unigram with bytes": lambda: unigram(byte_fallback=True),
    "words": word_level,
    "sentencepiece BPE": lambda: foreign(model_type="bpe", byte_fallback=True),
    "sentencepiece BPE with a prefix alone": lambda: foreign(model_type="bpe", **IDENTITY),
    "sentencepiece BPE that changes nothing": lambda: foreign(model_type="bpe", add_dummy_prefix=False, **IDENTITY),
    "sentencepiece BPE without bytes": lambda: foreign(model_type="bpe", user_defined_symbols=["<|user|>"]),
    "sentencepiece Unigram": lambda: foreign(model_type="unigram"),
    "sentencepiece Unigram that changes nothing": lambda: foreign(
        model_type="unigram", add_dummy_prefix=False, **IDENTITY
    ),
}


@cache
def content(kind: str) -> bytes:
    made = KINDS[kind]()
    return made if isinstance(made, bytes) else made.to_str().encode()


def saved(kind: str, folder: Path) -> Path:
    path = folder / ("tokenizer.json" if content(kind).startswith(b"{") else "tokenizer.model")
    path.write_bytes(content(kind))
    return path
