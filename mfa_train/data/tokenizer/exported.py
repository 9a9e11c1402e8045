"""A tokenizer as `transformers` and `tokenizers` read it.

A sentencepiece model that was trained here becomes a tokenizer.json with the same tokens for every text but one that holds
sentencepiece's own sign ▁: that one comes out as a space there. A model made elsewhere is left as it is: it may be of
another kind.
"""

from typing import Any

from mfa_train.data.tokenizer.base import Tokenizer
from mfa_train.data.tokenizer.huggingface import HuggingFaceTokenizer
from mfa_train.data.tokenizer.sentencepiece_model import SPACE, SentencePieceTokenizer


def tokenizer_files(tokenizer: Tokenizer, max_length: int, made_here: bool) -> dict[str, dict[str, Any]]:
    """JSON files that stand beside the tokenizer's own file, by name. A text begins with the separator there, as a document
    does in training."""
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length,
            "clean_up_tokenization_spaces": False}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        separator = tokenizer.tokenizer.id_to_token(tokenizer.eos_id)
        return {"tokenizer_config.json": told | {"bos_token": separator, "eos_token": separator}}
    if not made_here:
        return {}
    piece = tokenizer.processor.id_to_piece
    special = {"unk_token": piece(tokenizer.processor.unk_id()), "bos_token": piece(tokenizer.eos_id),
               "eos_token": piece(tokenizer.eos_id)}
    return {"tokenizer.json": _tokenizer_json(tokenizer), "tokenizer_config.json": told | special}


def _tokenizer_json(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """A BPE with byte fallback. A sentencepiece BPE merges the pair whose piece has the highest score, so the merges are
    every split of every piece, in the order of the scores."""
    processor = tokenizer.processor
    vocabulary = {processor.id_to_piece(token): token for token in range(tokenizer.vocab_size)}
    special = [token for token in range(tokenizer.vocab_size)
               if processor.is_control(token) or processor.is_unknown(token)]
    text = [piece for piece, token in vocabulary.items() if token not in special and not processor.is_byte(token)]
    merges = []
    for piece in sorted(text, key=lambda piece: -processor.get_score(vocabulary[piece])):
        merges += [[piece[:cut], piece[cut:]] for cut in range(1, len(piece))
                   if piece[:cut] in vocabulary and piece[cut:] in vocabulary]
    separator = processor.id_to_piece(tokenizer.eos_id)
    start = {"SpecialToken": {"id": separator, "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": token, "content": processor.id_to_piece(token), "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True} for token in special],
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False},
        "post_processor": {
            "type": "TemplateProcessing", "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {separator: {"id": separator, "ids": [tokenizer.eos_id], "tokens": [separator]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": processor.id_to_piece(processor.unk_id()),
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": vocabulary, "merges": merges},
    }

