"""Reading and tokenising, beside public peers on the same tokens, text and cores.

Reading: shuffled samples of 2048 tokens from local files in one process, batches of 64: this package's shards,
`datasets` streaming from Parquet, litdata, mosaicml-streaming. Tokenising: 40 MB of Python sources: `mfa-train prepare`
from JSONL to shards, sentencepiece's own batch encoding of the same texts in memory (the same model, all cores),
Hugging Face's `tokenizers` (a byte-level BPE of the same size). Contenders take turns, each in a process of its own;
medians of the rounds. One that fails says why in its row. The last line is JSON.

    make bench-data        or        .venv/bin/python benchmarks/data.py [--rounds 5]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from contenders import Contender

SEQUENCE, BATCH, TOKENS, VOCAB = 2048, 64, 2**26, 50_000
SECONDS = 4.0
TEXT_COPIES = 4


def mfa_train(folder: Path) -> Iterator[np.ndarray]:
    from mfa_train.data.reading.samples import Samples
    from mfa_train.data.shards.cache import ShardCache
    from mfa_train.data.shards.megatron_form import write_shard
    from mfa_train.data.shards.shard import Shard
    from mfa_train.data.shards.shards import Shards
    from mfa_train.data.shards.store import ShardStore
    from mfa_train.training.processes.host_memory import keep_freed_memory

    shards = []
    for number, part in enumerate(np.split(tokens(), 16)):
        if not (folder / f"train-{number:05}.idx").exists():
            write_shard(folder / f"train-{number:05}", np.split(part, 4096), VOCAB)
        shards.append(Shard(f"train-{number:05}", len(part), "uint16"))
    keep_freed_memory()  # as the trainer does
    samples = Samples(Shards(ShardStore(folder, ShardCache(folder, 0)), shards, VOCAB), SEQUENCE, seed=1)
    step = 0
    while True:
        yield samples.batch(np.arange(step * BATCH, (step + 1) * BATCH))
        step += 1


def datasets_streaming(folder: Path) -> Iterator[np.ndarray]:
    import datasets
    import pyarrow
    import pyarrow.parquet

    for number, part in enumerate(np.split(tokens(), 16)):
        if not (path := folder / f"{number:05}.parquet").exists():
            rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(part), SEQUENCE)
            pyarrow.parquet.write_table(pyarrow.table({"tokens": rows}), path)
    rows = datasets.load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train", streaming=True)
    epoch = 0
    while True:
        for batch in rows.shuffle(seed=epoch, buffer_size=10_000).with_format("numpy").iter(BATCH):
            yield batch["tokens"]
        epoch += 1


def litdata(folder: Path) -> Iterator[np.ndarray]:
    import litdata as lit
    import torch

    if not any(folder.glob("index.json")):
        lit.optimize(
            _torch_documents,
            list(np.split(tokens(), 16)),
            str(folder),
            num_workers=1,
            chunk_bytes="16MB",
            item_loader=lit.TokensLoader(block_size=SEQUENCE),
        )
    while True:
        rows = lit.StreamingDataset(str(folder), item_loader=lit.TokensLoader(block_size=SEQUENCE), shuffle=True)
        yield from torch.utils.data.DataLoader(rows, batch_size=BATCH, drop_last=True)


def _torch_documents(part: np.ndarray) -> Iterator:
    import torch

    yield torch.from_numpy(part.astype(np.int32))


def mosaicml_streaming(folder: Path) -> Iterator[np.ndarray]:
    from types import ModuleType

    import torch

    sys.modules["streaming.vision"] = ModuleType("streaming.vision")  # it needs torchvision, and tokens don't need it
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    if not (folder / "index.json").exists():
        with MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint16:{SEQUENCE}"}, size_limit=2**24) as out:
            for row in tokens().reshape(-1, SEQUENCE):
                out.write({"tokens": row})
    clean_stale_shared_memory()
    rows = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    while True:
        yield from torch.utils.data.DataLoader(rows, batch_size=BATCH, drop_last=True)


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, TOKENS, dtype=np.uint16)


READERS: dict[str, Callable[[Path], Iterator]] = {
    "mfa_train": mfa_train,
    "datasets": datasets_streaming,
    "litdata": litdata,
    "mosaicml-streaming": mosaicml_streaming,
}


def read(name: str, folder: Path) -> Iterator[float]:
    """Tokens/s of one reader, its first two batches left out."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = READERS[name](folder)
    next(batches), next(batches)
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < SECONDS:
        count += len(next(batches)) if name != "mosaicml-streaming" else len(next(batches)["tokens"])
    yield count * SEQUENCE / seconds


def texts() -> list[str]:
    from mfa_train.data.preparing.sources import python_stdlib

    return [document.text for document in python_stdlib.documents()] * TEXT_COPIES


def tokenise_mfa_train(folder: Path) -> tuple[int, float]:
    from mfa_train import config as configs
    from mfa_train.data.preparing.prepare import prepare

    if not (source := folder / "text.jsonl").exists():
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()))
    data = configs.load(
        [
            "data=files",
            f"data.files=[{source}]",
            f"data.tokenizer={folder / 'tokenizer.model'}",
            f"data_dir={tempfile.mkdtemp(dir=folder)}",
        ]
    ).data
    start = time.perf_counter()
    splits = prepare(data, lambda message: None).manifest["splits"]
    return sum(split["tokens"] for split in splits.values()), time.perf_counter() - start


def tokenise_sentencepiece(folder: Path) -> tuple[int, float]:
    import sentencepiece

    processor, documents = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model")), texts()
    start = time.perf_counter()
    return sum(map(len, processor.encode(documents, num_threads=-1))), time.perf_counter() - start


def tokenise_tokenizers(folder: Path) -> tuple[int, float]:
    import tokenizers

    tokenizer, documents = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), texts()
    start = time.perf_counter()
    return sum(len(found.ids) for found in tokenizer.encode_batch_fast(documents)), time.perf_counter() - start


TOKENISERS = {
    "mfa_train": tokenise_mfa_train,
    "sentencepiece": tokenise_sentencepiece,
    "tokenizers": tokenise_tokenizers,
}


def make_tokenizers(folder: Path) -> None:
    """tokenizer.model and tokenizer.json, 4,096 pieces each, trained on the same text."""
    import tokenizers

    from mfa_train.data.tokenizer import train_sentencepiece

    documents = texts()[: len(texts()) // TEXT_COPIES]
    (folder / "tokenizer.model").write_bytes(train_sentencepiece(documents, 4096))
    byte_level = tokenizers.ByteLevelBPETokenizer()
    byte_level.train_from_iterator(documents, vocab_size=4096, show_progress=False)
    byte_level.save(str(folder / "tokenizer.json"))


def tokenise(name: str, folder: Path) -> Iterator[float]:
    """Tokens/s of one tokeniser."""
    count, seconds = TOKENISERS[name](folder)
    yield count / seconds


def rounds_of(
    figures: Callable[[str, Path], Iterator[float]], folders: dict[str, Path], rounds: int
) -> dict[str, float | str]:
    """Median of each name's figure over the rounds, after one that isn't counted; or why it has none."""
    found: dict[str, list[float]] = {name: [] for name in folders}
    failures: dict[str, str] = {}
    for number in range(rounds + 1):
        for name in [name for name in folders if name not in failures]:
            contender = Contender(figures, name, folders[name])
            figure = contender.turn()
            contender.end()
            if contender.failure is not None:
                failures[name] = contender.failure
            elif number:
                found[name].append(figure)
    return {name: failures.get(name) or statistics.median(found[name]) for name in folders}


def row(name: str, figure: float | str, ours: float | str) -> str:
    if isinstance(figure, str):
        return f"  {name:<20}  failed: {figure}"
    share = f"{figure / ours:10.3f} of mfa_train" if isinstance(ours, float) else ""
    return f"  {name:<20}{figure / 1e6:10.2f}{share}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tokenizers(folder)
        result = {
            "reading": rounds_of(read, {name: folder / name for name in READERS}, rounds),
            "tokenising": rounds_of(tokenise, dict.fromkeys(TOKENISERS, folder), rounds),
        }
    for what, figures in result.items():
        print(f"\n{what}: million tokens/s")
        for name, figure in figures.items():
            print(row(name, figure, figures["mfa_train"]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
