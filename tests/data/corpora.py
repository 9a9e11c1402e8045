"""Small corpora and tokenizers that tests of several modules share."""

import gzip
import hashlib
import json
import lzma
import random
from bz2 import compress as bz2
from pathlib import Path

import pyarrow
import pyarrow.parquet
import zstandard

from mfa_train import config as configs
from mfa_train.data.corpus import Corpus
from mfa_train.data.preparing.prepare import prepare
from mfa_train.data.shards.cache import ShardCache

COMPRESS = {"gz": gzip.compress, "bz2": bz2, "xz": lzma.compress, "zst": zstandard.compress}


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def write(folder: Path, name: str, texts: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / name)
    else:
        (folder / name).write_bytes(COMPRESS.get(name.split(".")[-1], bytes)(lines(texts)))


def random_texts(count: int, seed: int = 0) -> list[str]:
    words = random.Random(seed)
    vocabulary = ["".join(words.choices("abcdefgh", k=words.randint(2, 7))) for _ in range(2000)]
    return [" ".join(words.choices(vocabulary, k=words.randint(20, 300))) for _ in range(count)]


def byte_level_tokenizer(path: Path, texts: list[str], vocab_size: int = 500) -> Path:
    """A tokenizer.json as GPT-2's."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))
    return path


def prepared(*overrides: str, say=lambda message: None) -> Corpus:
    return prepare(configs.load(list(overrides)).data, say)


def digests(folder: Path | str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}


def opened(path: Path | str, check: bool = False) -> Corpus:
    """A corpus on disk."""
    return Corpus(path, ShardCache(Path(path).with_name("cache"), 0), check)
