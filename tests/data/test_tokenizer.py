"""The tokenizer loses nothing, whoever made it; where it does, the preparation says so."""

import base64
import json
import re

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mfa_train import config as configs
from mfa_train.data.reading.batches import Batches
from mfa_train.data.tokenizer import MIN_VOCAB_SIZE, base, open_recorded, open_tokenizer, train_sentencepiece
from mfa_train.data.tokenizer.base import LONGEST
from mfa_train.errors import ConfigError, DataError
from tests.data.corpora import byte_level_tokenizer, opened, prepared, random_texts, write
from tests.data.tokenizers import content, saved, sentencepiece_like

TEXTS = [f"def function_{number}(value):\n\treturn value * {number}\n" for number in range(200)]
HARD = [
    "",
    " ",
    "  leading and trailing  ",
    "\n\n\ttabs\tand\n  lines\n",
    "a  b   c",
    "▁ sentencepiece's own ▁sign▁",
    "naïve 漢字 🙂 \u0301",
    "\r\n",
    "\x00\x01\x7f",
    "<unk><s></s><0x41><|endoftext|>",
    "0123456789",
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
    prepared(
        "data=files",
        f"data_dir={tmp_path / 'data'}",
        f"data.files=[{tmp_path}/a.jsonl]",
        f"data.tokenizer={tmp_path}/tokenizer.json",
        say=said.append,
    )
    assert any("changes texts: 50 of the first 50" in line for line in said) == told
    assert any("50 of 50 documents do not come back byte for byte" in line for line in said) == told


def test_what_ends_a_document_must_be_known(tmp_path):
    path = byte_level_tokenizer(tmp_path / "x.json", TEXTS)
    path.write_text(path.read_text().replace("<|endoftext|>", "<|stop|>"))
    with pytest.raises(ConfigError, match="data.eos_token=null: .* type the one that parts documents"):
        open_tokenizer(path)
    assert open_tokenizer(path, "<|stop|>").eos_id == 0
    with pytest.raises(ConfigError, match="data.eos_token=<eos>: x.json has no such token"):
        open_tokenizer(path, "<eos>")


def with_special(folder, *names: str, ordinary: tuple[str, ...] = ()):
    """A byte-level tokenizer.json with special tokens `names`, and `ordinary` ones added behind."""
    settings = json.loads(content("byte-level"))
    token = settings["added_tokens"][0]
    settings["model"]["vocab"] = {piece: number for piece, number in settings["model"]["vocab"].items() if number > 1}
    settings["model"]["vocab"] = {piece: number - 2 for piece, number in settings["model"]["vocab"].items()}
    first = len(settings["model"]["vocab"])
    settings["added_tokens"] = [
        token | {"id": first + place, "content": name, "special": name in names}
        for place, name in enumerate([*names, *ordinary])
    ]
    settings["post_processor"] = None
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(settings))
    return path


def counted(corpus) -> tuple[int, int, int]:
    """(documents, separators, bytes of text of a separator) of a corpus's training split."""
    tokens = corpus.train.read(0, corpus.train.num_tokens)
    return (
        corpus.manifest["splits"]["train"]["documents"],
        int((tokens == corpus.tokenizer.eos_id).sum()),
        int(corpus.tokenizer.token_bytes[corpus.tokenizer.eos_id]),
    )


HTML = [f"<p><s>was {number}</s> now {number + 1}<eos></p> [EOS]<|endoftext|>" for number in range(60)]


def prepared_html(folder, path, *overrides, say=lambda line: None):
    write(folder, "a.jsonl", HTML)
    return prepared(
        "data=files",
        f"data_dir={folder / 'data'}",
        f"data.files=[{folder}/a.jsonl]",
        "data.held_out_fraction=0.2",
        f"data.tokenizer={path}",
        *overrides,
        say=say,
    )


def test_documents_end_in_a_special_token_and_in_none_of_their_texts(tmp_path):
    said = []
    path = with_special(tmp_path, "<eos>", ordinary=("</s>",))  # as Gemma's, where </s> is an HTML tag
    corpus = prepared_html(tmp_path, path, say=said.append)
    documents, separators, size = counted(corpus)
    assert (separators, size) == (documents, 0)
    assert "  documents end in <eos> (id 398)" in said
    assert corpus.manifest["separator_token"] == {"token": "<eos>", "id": 398}


@pytest.mark.parametrize("kind", ["T5's", "Unigram with bytes", "words", "sentencepiece Unigram", "byte-level"])
def test_names_of_special_tokens_in_texts_are_text(kind, tmp_path):
    documents, separators, size = counted(prepared_html(tmp_path, saved(kind, tmp_path)))
    assert (separators, size) == (documents, 0)


@pytest.mark.parametrize("name", ["<|im(end)|>", "[SEP]", "a▁b", "\n\n", "\\d+", "-~&#", "(?=x)", "漢é"])
def test_whatever_a_special_token_is_called_no_text_becomes_it(name, tmp_path):
    settings = json.loads(content("T5's"))
    settings["added_tokens"].append(
        settings["added_tokens"][0] | {"id": len(settings["model"]["vocab"]), "content": name}
    )
    settings["model"]["vocab"].append([name, 0.0])
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = open_tokenizer(tmp_path)
    for text in (name, f"x{name}{name}x", name.replace("▁", " ")):
        assert tokenizer.vocab_size - 1 not in tokenizer.encode([text])[0]


def test_corpora_that_end_their_documents_differently_are_not_mixed(tmp_path):
    path = with_special(tmp_path, "<|im_end|>", "<|endoftext|>")
    corpora = {
        name: opened(prepared_html(tmp_path / name, path, f"data.eos_token='<|{token}|>'").path)
        for name, token in (("one", "im_end"), ("other", "endoftext"))
    }
    data = configs.load(["data=mixture", "data.weights={one: 1, other: 1}"]).data
    with pytest.raises(
        ConfigError, match=r"data.corpora.other: documents end in '<.endoftext.>' in .*, and in '<.im_end.>' in"
    ):
        Batches(corpora, data, 8, 0, 1)


def test_of_several_usual_names_the_one_taken_is_told(tmp_path):
    path = with_special(tmp_path, "<|im_end|>", "<|endoftext|>")
    assert open_tokenizer(path).separator.told() == (
        "documents end in <|endoftext|> (id 399); <|im_end|> could be meant as well: data.eos_token=… names one"
    )
    assert open_tokenizer(path, "<|im_end|>").eos_id == 398


def test_an_ordinary_token_that_is_named_becomes_special(tmp_path):
    path = with_special(tmp_path, "<eos>", ordinary=("</s>",))
    documents, separators, size = counted(prepared_html(tmp_path, path, "data.eos_token='</s>'"))
    assert (separators, size) == (documents, 0)


@pytest.mark.parametrize("kind, token", [("byte-level", "return"), ("T5's", "value"), ("sentencepiece BPE", "▁return")])
def test_a_piece_of_words_ends_no_document(kind, token, tmp_path):
    with pytest.raises(ConfigError, match=f"data.eos_token={token}: an ordinary token"):
        open_tokenizer(saved(kind, tmp_path), token)


def test_a_corpus_from_before_records_keeps_its_separators(tmp_path):
    path = with_special(tmp_path, "<eos>", ordinary=("</s>",))
    corpus = prepared_html(tmp_path, path)
    manifest = {key: value for key, value in corpus.manifest.items() if key != "separator_token"}
    (tmp_path / "data" / corpus.path / "manifest.json").write_text(json.dumps(manifest))
    said = []
    prepared_html(tmp_path, path, say=said.append)
    assert any("warning" in line and "documents end in </s> (id 399), an ordinary token" in line for line in said)
    old = opened(corpus.path).tokenizer
    assert (old.separator.token, old.token_bytes[old.eos_id], old.encode(["a</s>"])[0][-1]) == ("</s>", 4, old.eos_id)
    with pytest.raises(DataError, match="has no separator"):
        open_recorded(path, {"token": "<eos>", "id": 5}, None)


def test_long_texts_are_encoded_a_part_at_a_time(monkeypatch, tokenizer):
    monkeypatch.setattr(base.Tokenizer, "at_once", 2 * LONGEST)
    sizes, encode = [], tokenizer._encode
    monkeypatch.setattr(tokenizer, "_encode", lambda texts: sizes.append(sum(map(len, texts))) or encode(texts))
    texts = ["ab " * 200_000, *["a few words"] * 20_000, ""]
    encoded = tokenizer.encode(texts)
    assert max(sizes) <= 2 * LONGEST
    assert [tokenizer.text_bytes(ids) for ids in encoded] == [text.encode() for text in texts]


@pytest.mark.parametrize("complete", [True, False])
def test_what_stands_for_unknown_text_ends_documents_only_where_no_text_is_unknown(complete, tmp_path):
    """As CLIP's: <|endoftext|> is both."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(sign + "</w>" for sign in (alphabet if complete else "abc")), "<|endoftext|>"]
    made = tokenizers.Tokenizer(
        models.BPE(
            {piece: token for token, piece in enumerate(pieces)},
            [],
            unk_token="<|endoftext|>",
            end_of_word_suffix="</w>",
        )
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.BPEDecoder(suffix="</w>")
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(tmp_path / "x.json"))
    if not complete:
        with pytest.raises(ConfigError, match="under none of the usual names"):
            open_tokenizer(tmp_path / "x.json")
        with pytest.raises(ConfigError, match="which texts become as well"):
            open_tokenizer(tmp_path / "x.json", "<|endoftext|>")
        return
    tokenizer = open_tokenizer(tmp_path / "x.json")
    ids = tokenizer.encode(["abc de"])[0]
    assert tokenizer.eos_id not in ids and tokenizer.text_bytes(ids) == b"abc de "


def test_a_record_that_is_no_text_is_refused(tmp_path):
    path = saved("byte-level", tmp_path)
    with pytest.raises(DataError, match="has no separator"):
        open_recorded(path, {"token": "\ud800", "id": 1}, None)


def test_a_text_that_a_tokenizer_makes_far_too_long_is_refused(tmp_path, monkeypatch):
    path = byte_level_tokenizer(tmp_path / "x.json", TEXTS)
    settings = json.loads(path.read_text())
    settings["normalizer"] = {"type": "NFKC"}
    path.write_text(json.dumps(settings))
    tokenizer = open_tokenizer(path)
    assert tokenizer.at_once == base.AT_ONCE_CHANGED
    monkeypatch.setattr(base, "MOST_TOKENS", 10_000)
    assert len(tokenizer.encode(["a" * 10_000])[0]) <= 10_000
    with pytest.raises(DataError, match="more than 10,000 tokens of one text of 2,000 characters"):
        tokenizer.encode(["\ufdfa" * 2000])


def test_ids_that_are_no_token_stand_for_no_text(tokenizer):
    assert tokenizer.text_bytes(np.array([-1, tokenizer.vocab_size, 2**31 - 1])) == b""


def test_long_lines_are_cut_before_a_tokenizer_is_trained_on_them():
    texts = random_texts(2000)
    line = " ".join(texts)
    assert len(line) > 2**20
    assert train_sentencepiece([line], 1000) == train_sentencepiece([re.sub(" (?=[ab])", "\n ", line)], 1000)
    assert train_sentencepiece(["ab" * 2**20], 268)  # no space to cut at


@pytest.mark.parametrize(
    "texts, vocab_size, told",
    [
        (["few short texts"], 4096, f"give 294 pieces, and it needs at least {MIN_VOCAB_SIZE}"),
        (["\n\n"], 512, "nothing but line breaks"),
        (["".join(map(chr, range(0x4E00, 0x4E00 + 900)))], 600, "type data.vocab_size=1161 or more$"),
        (random_texts(50), 20_000, r"type data.vocab_size=\d{4}$"),
        (TEXTS, 10**20, "expected at most"),
    ],
)
def test_advice_on_the_vocabulary_can_be_followed(texts, vocab_size, told):
    with pytest.raises(ConfigError, match=told) as raised:
        train_sentencepiece(texts, vocab_size)
    if advised := re.search(r"type data.vocab_size=(\d+)", str(raised.value)):
        assert MIN_VOCAB_SIZE <= int(advised[1]) != vocab_size
        assert train_sentencepiece(texts, int(advised[1]))


def changed(kind: str, **values) -> bytes:
    """The file of `kind` where the keys of the model (or of the file) are other ones."""
    settings = json.loads(content(kind))
    for key, value in values.items():
        (settings["model"] if key in ("vocab", "merges", "unk_id") else settings)[key] = value
    return json.dumps(settings).encode()


VOCABULARY = json.loads(content("byte-level"))["model"]["vocab"]
ADDED = json.loads(content("byte-level"))["added_tokens"][1]
GARBAGE = base64.b64encode(b"\x04\0\0\0" + b"\xff" * 4 + b"abc\0").decode()
GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 16}
CRAFTED = {
    "empty": (b"", "not a "),
    "rubbish": (b"\x00rubbish", "not a "),
    "no model": (b"{}", "no model"),
    "cut": (content("byte-level")[:999], "not a "),
    "cut sentencepiece": (content("trained here")[:3000], "not a "),
    "half a surrogate": (changed("byte-level", vocab=VOCABULARY | {"\ud800": 9}), "not a "),
    "nested": (b'{"model":' + b'{"a":' * 10**5 + b"1" + b"}" * 10**5 + b"}", "nested too deep"),
    "a huge id": (changed("byte-level", vocab=VOCABULARY | {"x9": 4_000_000_000}), "holds the token id 4,000,000,000"),
    "an id too large": (changed("byte-level", vocab=VOCABULARY | {"x9": 2**40}), "not a "),
    "a negative id": (changed("byte-level", vocab=VOCABULARY | {"x9": -1}), "not a "),
    "an id twice": (changed("byte-level", vocab=VOCABULARY | {"x9": 7}), "the same id, 7"),
    "an id that isn't counted": (changed("byte-level", added_tokens=[ADDED | {"id": 9}]), "the id 9, where"),
    "a model of numbers": (changed("byte-level", merges=[[1, 2]]), "not a "),
    "no unknown": (changed("T5's", unk_id=5000), "not a "),
    "charsmap": (changed("T5's", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "not a "),
    "charsmap out of bounds": (
        changed("T5's", normalizer={"type": "Precompiled", "precompiled_charsmap": GARBAGE}),
        "fails at encoding",
    ),
    "a regex without end": (
        changed(
            "byte-level",
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
                    json.loads(content("byte-level"))["pre_tokenizer"],
                ],
            },
        ),
        "fails at encoding",
    ),
    "a growing normalizer": (
        changed("byte-level", normalizer={"type": "Sequence", "normalizers": [GROWING] * 8}),
        "times as long",
    ),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_file_that_is_no_tokenizer_is_named_in_one_line(name, tmp_path):
    crafted, told = CRAFTED[name]
    (tmp_path / "x").write_bytes(crafted)
    with pytest.raises(DataError, match=f"/x: .*{re.escape(told)}") as raised:
        open_tokenizer(tmp_path / "x").encode(["a" * 30_000 + "b é"])
    assert "\n" not in str(raised.value)
