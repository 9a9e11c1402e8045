"""An exported tokenizer gives training's tokens, whoever made it and whatever the text."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mfa_train.data.tokenizer import open_tokenizer
from mfa_train.data.tokenizer.exported import TRIED, tokenizer_files
from tests.data.tokenizers import KINDS, LOSSLESS, saved

NAMES = [
    "</s>",
    "<s>",
    "<unk>",
    "<pad>",
    "<bos>",
    "<|endoftext|>",
    "<eos>",
    "[UNK]",
    "[EOS]",
    "<0x41>",
    "<|user|>",
    "function_",
    "<mask>",
]
PARTS = [
    "▁",
    " ",
    "  ",
    "\n",
    "\t",
    "\r\n",
    "ﬁ",
    "e\u0301",
    "漢字",
    "🙂",
    "\u00a0",
    "return value",
    "ab ab",
    "{",
    "\x00",
    *NAMES,
]
ANY_TEXT = st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=10).map("".join)
NO_SUCH_JSON = {
    "sentencepiece BPE",
    "sentencepiece BPE without bytes",
    "sentencepiece Unigram",
    "sentencepiece Unigram that changes nothing",
}


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """(kind, training's tokenizer, the exported one as transformers loads it)."""
    folder = tmp_path_factory.mktemp("exported")
    ours = open_tokenizer(saved(request.param, folder))
    out = folder / "out"
    out.mkdir()
    files, said = tokenizer_files(ours, 128)
    for name, content in files.items():
        (out / name).write_bytes(content)
    (out / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert ("no tokenizer.json" in said) == ("tokenizer.json" not in files) == (request.param in NO_SUCH_JSON)
    return request.param, ours, AutoTokenizer.from_pretrained(out)


def hold(kind, ours, theirs, text):
    ids = ours.encode([text])[0].tolist()
    if not (kind == "sentencepiece Unigram that changes nothing" and "▁" in text):  # said at the export
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs(text)["input_ids"] == [ours.eos_id, *ids]
    assert ours.eos_id not in ids
    if kind in LOSSLESS and not (kind == "Llama 2's without its prefix" and "▁" in text):  # its own sign for a space
        assert ours.text_bytes(ours.encode([text])[0]) == text.encode()
        assert ours.token_bytes[ids].sum() == len(text.encode())


def test_known_hard_texts_have_trainings_tokens(both):
    for text in [*TRIED, "".join(NAMES), " ".join(NAMES)]:
        hold(*both, text)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(text=ANY_TEXT)
def test_any_text_has_trainings_tokens_behind_the_separator(both, text):
    hold(*both, text)


def test_an_exported_tokenizer_is_read_here_again_with_the_same_tokens(tmp_path):
    ours = open_tokenizer(saved("trained here", tmp_path))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_files(ours, 512)[0]["tokenizer.json"])
    again = open_tokenizer(tmp_path / "tokenizer.json")
    assert again.pieces == ours.pieces and again.eos_id == ours.eos_id
    for text in (*TRIED, "".join(PARTS)):
        assert again.encode([text])[0].tolist() == ours.encode([text])[0].tolist()
