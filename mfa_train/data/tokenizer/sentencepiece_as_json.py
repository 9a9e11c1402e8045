"""A sentencepiece BPE as a tokenizer.json with the same tokens for every text.

A sentencepiece BPE merges the pair whose piece has the highest score, so the merges are every split of every piece, in
the order of the scores. A model that changes no text gets the space itself in its pieces, instead of ▁: then a text's
own ▁ is bytes there too. One that puts a space in front of a text gets it in front here.
"""

from typing import Any

from sentencepiece import sentencepiece_model_pb2 as proto

from mfa_train.data.tokenizer.json_settings import BYTES
from mfa_train.data.tokenizer.sentencepiece_model import SPACE, SentencePieceTokenizer

BPE = proto.TrainerSpec.BPE
USER_DEFINED = proto.ModelProto.SentencePiece.USER_DEFINED


def as_json(tokenizer: SentencePieceTokenizer) -> dict[str, Any] | None:
    """None where it can't be the same: another kind than BPE, no byte fallback, characters that are normalised,
    whitespace that is taken away, pieces that are not used."""
    model = proto.ModelProto.FromString(tokenizer.content)
    normalizer, processor = model.normalizer_spec, tokenizer.processor
    tokens = range(tokenizer.vocab_size)
    in_front = normalizer.add_dummy_prefix
    symbols = [piece.piece for piece in model.pieces if piece.type == USER_DEFINED]
    scores = [
        piece.score
        for piece in model.pieces
        if piece.type == proto.ModelProto.SentencePiece.NORMAL and len(piece.piece) > 1
    ]
    changes = (
        normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces or not normalizer.escape_whitespaces
    )
    if (
        model.trainer_spec.model_type != BPE
        or model.trainer_spec.treat_whitespace_as_suffix
        or changes
        or not all(processor.is_byte(processor.piece_to_id(byte)) for byte in BYTES)
        or not all(tokenizer.known)
        or len(set(scores)) < len(scores)
        or (not in_front and tokenizer.spelt is None)
        or any(len(symbol) > 1 for symbol in symbols)
    ):
        return None
    space = SPACE if in_front else " "

    def spelt(token: int) -> str:
        piece = processor.id_to_piece(token)
        return piece if processor.is_control(token) or processor.is_unknown(token) else piece.replace(SPACE, space)

    special = [token for token in tokens if processor.is_control(token) or processor.is_unknown(token)]
    vocabulary = {spelt(token): token for token in tokens}
    text = [piece for piece, token in vocabulary.items() if token not in special and not processor.is_byte(token)]
    parts = set(text) - set(symbols)
    merges = []
    for piece in sorted(text, key=lambda piece: -processor.get_score(vocabulary[piece])):
        merges += [
            [piece[:cut], piece[cut:]] for cut in range(1, len(piece)) if piece[:cut] in parts and piece[cut:] in parts
        ]
    before = [{"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    behind = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    stripped = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": {"type": "Sequence", "normalizers": before} if in_front else None,
        "added_tokens": [
            {
                "id": token,
                "content": processor.id_to_piece(token),
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in special
        ],
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                *(behind if in_front else []),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *(stripped if in_front else []),
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": processor.id_to_piece(processor.unk_id()),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
