"""The tokenizer loses nothing, whoever made it; where it does, the preparation says so."""

import numpy as np
import pytest
import tokenizers

from mfa_train.data.tokenizer import open_tokenizer, train_sentencepiece
from mfa_train.data.tokenizer.base import LONGEST
from mfa_train.errors import ConfigError, DataError
from tests.data.corpora import byte_level_tokenizer, prepared, random_texts, write

TEXTS = [f"def function_{number}(value):\n\treturn value * {number}\n" for number in range(200)]
HARD = [
    "", " ", "  leading and trailing  ", "\n\n\ttabs\tand\n  lines\n", "a  b   c", "▁ sentencepiece's own ▁sign▁",
    "naïve 漢字 🙂 \u0301", "\r\n", "\x00\x01\x7f", "<unk><s></s><0x41><|endoftext|>", "0123456789",
]


@pytest.fixture(scope="module", params=["tokenizer.model", "tokenizer.json"])
def tokenizer(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / request.param
    if path.suffix == ".json":
        return open_tokenizer(byte_level_tokenizer(path, TEXTS))
    path.write_bytes(train_sentencepiece(TEXTS, 330))
    return open_tokenizer(path)


@pytest.mark.parametrize("text", HARD)
def test_every_text_comes_back_byte_for_byte(tokenizer, text):
    ids = tokenizer.encode([text])[0]
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_id not in ids
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


def test_control_tokens_stand_for_no_text(tokenizer):
    assert tokenizer.token_bytes[tokenizer.eos_id] == 0


def test_a_text_in_parts_has_the_tokens_of_the_whole(tokenizer):
    text = " ".join(random_texts(300))
    assert len(text) > 2 * LONGEST
    whole = tokenizer._encode([text])[0]
    assert np.array_equal(tokenizer.encode(["a", text])[1], whole)


def sentencepiece_like(prefix: str) -> tokenizers.Tokenizer:
    """As Llama 2's tokenizer.json: byte fallback, `prefix` in front of a text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "▁ab", "ab"]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("▁a", "b"), ("a", "b")]
    model = tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    made, normalizers, decoders = tokenizers.Tokenizer(model), tokenizers.normalizers, tokenizers.decoders
    in_front = [normalizers.Prepend(prefix)] if prefix else []
    made.normalizer = normalizers.Sequence([*in_front, normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def test_bytes_of_a_sentencepiece_like_json_are_exact(tmp_path):
    sentencepiece_like("").save(str(tmp_path / "x.json"))
    tokenizer = open_tokenizer(tmp_path / "x.json")
    for text in ("ab ab\n\tc", "漢字 🙂", "</s> ab"):
        ids = tokenizer.encode([text])[0]
        assert tokenizer.text_bytes(ids) == text.encode() and tokenizer.eos_id not in ids


@pytest.mark.parametrize("prefix, told", [("", False), ("▁", True)])
def test_a_tokenizer_that_changes_texts_is_told(prefix, told, tmp_path):
    write(tmp_path, "a.jsonl", random_texts(50))
    sentencepiece_like(prefix).save(str(tmp_path / "tokenizer.json"))
    said = []
    prepared("data=files", f"data_dir={tmp_path / 'data'}", f"data.files=[{tmp_path}/a.jsonl]",
             f"data.tokenizer={tmp_path}/tokenizer.json", say=said.append)
    assert any("changes texts: 50 of the first 50" in line for line in said) == told


def test_what_ends_a_document_must_be_known(tmp_path):
    path = byte_level_tokenizer(tmp_path / "x.json", TEXTS)
    path.write_text(path.read_text().replace("<|endoftext|>", "<|stop|>"))
    with pytest.raises(ConfigError, match="data.eos_token=null: .* type the one that parts documents"):
        open_tokenizer(path)
    assert open_tokenizer(path, "<|stop|>").eos_id == 0
    with pytest.raises(ConfigError, match="data.eos_token=<eos>: x.json has no such token"):
        open_tokenizer(path, "<eos>")


@pytest.mark.parametrize("content", [b"{}", b"\x00rubbish"])
def test_a_file_that_is_no_tokenizer_is_named(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match="x: not a "):
        open_tokenizer(tmp_path / "x")
