"""The sentencepiece tokenizer as Hugging Face's tokenizer.json, which `transformers` and `tokenizers` read.

The same tokens for every text but one that holds sentencepiece's own sign ▁: that one comes out as a space there.
"""

from typing import Any

from mfa_train.data.tokenizer import SPACE, Tokenizer


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """A BPE with byte fallback. A sentencepiece BPE merges the pair whose piece has the highest score, so the merges
    are every split of every piece, in the order of the scores."""
    processor = tokenizer.processor
    vocabulary = {processor.id_to_piece(token): token for token in range(tokenizer.vocab_size)}
    special = [token for token in range(tokenizer.vocab_size)
               if processor.is_control(token) or processor.is_unknown(token)]
    text = [piece for piece, token in vocabulary.items() if token not in special and not processor.is_byte(token)]
    merges = []
    for piece in sorted(text, key=lambda piece: -processor.get_score(vocabulary[piece])):
        merges += [[piece[:cut], piece[cut:]] for cut in range(1, len(piece))
                   if piece[:cut] in vocabulary and piece[cut:] in vocabulary]
    bos = processor.id_to_piece(tokenizer.bos_id)
    start = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": token, "content": processor.id_to_piece(token), "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True} for token in special],
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False},
        "post_processor": {
            "type": "TemplateProcessing", "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": processor.id_to_piece(processor.unk_id()),
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": vocabulary, "merges": merges},
    }


def tokenizer_config(tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
    """tokenizer_config.json, beside tokenizer.json."""
    named = {"unk_token": tokenizer.processor.unk_id(), "bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length,
            "clean_up_tokenization_spaces": False,
            **{name: tokenizer.processor.id_to_piece(token) for name, token in named.items()}}
