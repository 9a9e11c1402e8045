"""The tokenizer loses nothing."""

import numpy as np
import pytest

from mfa_train.data.tokenizer import Tokenizer, open_tokenizer, train_sentencepiece


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    texts = [f"def function_{number}(value):\n\treturn value * {number}\n" for number in range(200)]
    path.write_bytes(train_sentencepiece(texts, 330))
    return open_tokenizer(path)


@pytest.mark.parametrize("text", [
    "", " ", "  leading and trailing  ", "\n\n\ttabs\tand\n  lines\n", "a  b   c", "▁ sentencepiece's own ▁sign▁",
    "naïve 漢字 🙂 \u0301", "\r\n", "\x00\x01\x7f", "<unk><s></s><0x41>", "0123456789",
])
def test_every_text_comes_back_byte_for_byte(tokenizer, text):
    ids = tokenizer.encode([text])[0]
    assert tokenizer.decode(ids) == text
    assert tokenizer.processor.unk_id() not in ids
    assert tokenizer.token_bytes[np.array(ids, dtype=int)].sum() == len(text.encode())


def test_control_tokens_stand_for_no_text(tokenizer):
    assert tokenizer.token_bytes[[tokenizer.processor.bos_id(), tokenizer.eos_id]].sum() == 0
