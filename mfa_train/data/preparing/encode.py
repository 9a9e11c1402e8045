"""Texts to tokens, once, killed and restarted at any moment with the same bytes.

    1. tokenizer.model is trained on the first training documents, up to data.tokenizer_bytes of text; or the file that
       data.tokenizer names is copied, as tokenizer.model or tokenizer.json.
    2. Documents are read, encoded on all cores and written, the three at the same time, shard by shard: one of each
       split for every data.shard_bytes of text. progress.json tells how many documents the finished shards hold.
    3. The manifest is written last, then the folder gets its name; what the documents were made of is told.

Before all that the documents are looked at until both splits have one. Where none falls into one of them, the end of
each is held out.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from mfa_train.config import DataConfig
from mfa_train.data.manifest import SPLITS
from mfa_train.data.preparing import progress_file
from mfa_train.data.preparing.ahead import ahead
from mfa_train.data.preparing.bar import Bar
from mfa_train.data.preparing.batches import Batch, batches
from mfa_train.data.preparing.finish import finish, settings_of, write_bytes
from mfa_train.data.preparing.sources import Document, Source, Tally
from mfa_train.data.preparing.sources.ends import EndsHeldOut
from mfa_train.data.shards.megatron_form import ShardWriter
from mfa_train.data.shards.parts import write_parts
from mfa_train.data.shards.store import sha256_of
from mfa_train.data.tokenizer import FILES, Tokenizer, file_name, open_tokenizer, train_sentencepiece
from mfa_train.errors import ConfigError

MOST_SHARDS = 10_000
"""Of a split. A folder of more is slow to list, and each is a file to open."""


class Encoding:
    """The preparation of a source's documents. `tokenizer`: the content of the file that data.tokenizer names."""

    def __init__(
        self, path: Path, source: Source, data: DataConfig, tokenizer: bytes | None, say: Callable[[str], None]
    ):
        self.path, self.source, self.data, self.given, self.say = path, source, data, tokenizer, say
        self.work = path.with_name(f".{path.name}.partial")
        trained = {"vocab_size": data.vocab_size, "tokenizer_bytes": data.tokenizer_bytes} if tokenizer is None else {}
        self.settings = settings_of(data, source.version(), tokenizer) | trained | {"shard_bytes": data.shard_bytes}
        self.tally = Tally()

    def run(self) -> None:
        self._require_few_shards()
        progress = self._resume()
        self._part_source(progress)
        tokenizer = self._tokenizer()
        documents = self.source.documents(self.tally)
        position = 0
        for document in islice(documents, sum(part["documents"] for part in progress["parts"])):
            position = document.position
        encoded = ahead(
            (batch, tokenizer.encode([document.text for document in batch.documents]))
            for batch in ahead(batches(documents, self.data.shard_bytes))
        )
        self.changes = any(part["changed"] for part in progress["parts"]) if progress["parts"] else None
        with Bar(self.source.size(), position) as bar:
            while part := self._part(encoded, len(progress["parts"]), tokenizer, bar):
                if len(progress["parts"]) == MOST_SHARDS:
                    raise self._many_shards(f"more than {MOST_SHARDS:,}")
                progress["parts"].append(part)
                progress_file.write(self.work, progress)
        self._finish(progress["parts"], tokenizer)

    def _require_few_shards(self) -> None:
        size = self.source.size() or 0  # of compressed files less than their text
        if size > MOST_SHARDS * self.data.shard_bytes:
            raise self._many_shards(f"{size // self.data.shard_bytes:,}", -(-size // MOST_SHARDS))

    def _many_shards(self, count: str, enough: int | None = None) -> ConfigError:
        return ConfigError(
            f"data.shard_bytes={self.data.shard_bytes}: would make {count} shards of {self.data.source}; type "
            f"data.shard_bytes={enough or 10 * self.data.shard_bytes} or more"
        )

    def _part_source(self, progress: dict) -> None:
        """Has the documents' ends held out where a split would have none; found once, and kept in progress.json."""
        if "ends_held_out" not in progress:
            progress["ends_held_out"] = self._lacks_a_split()
            progress_file.write(self.work, progress)
        if progress["ends_held_out"]:
            self.source = EndsHeldOut(self.source, self.data.held_out_fraction)

    def _lacks_a_split(self) -> bool:
        tally, seen, longest = Tally(), set(), 0
        for document in self.source.documents(tally):
            seen.add(self._is_held_out(document))
            if len(seen) == 2:
                return False
            longest = max(longest, len(document.text))
        if longest < 2:
            little = "too little text to hold any out" if seen else "there is no text to prepare"
            raise ConfigError(f"data.source={self.data.source}: {little} ({'; '.join(tally.told())})")
        return True

    def _resume(self) -> dict:
        """What an earlier preparation with the same settings left; else a fresh start."""
        name = f"{self.settings['source']} {self.settings['source_version']}"
        if (progress := progress_file.read(self.work, self.settings)) is not None:
            self.say(f"Preparing {name}: going on behind {len(progress['parts'])} finished shards …")
            return progress
        self.say(f"Preparing {name}: reading, {'training a tokenizer, ' if self.given is None else ''}tokenising …")
        return progress_file.begin(self.work, self.settings)

    def _is_held_out(self, document: Document) -> bool:
        return self.source.held_out(document, self.data.held_out_fraction)

    def _tokenizer(self) -> Tokenizer:
        if not any((self.work / name).is_file() for name in FILES):
            content = self._trained() if self.given is None else self.given
            write_bytes(self.work / file_name(content), content)
        return open_tokenizer(self.work, self.data.eos_token)

    def _trained(self) -> bytes:
        texts, size = [], 0
        for document in self.source.documents():
            if not self._is_held_out(document):
                texts.append(document.text)
                size += len(document.utf8)
                if size >= self.data.tokenizer_bytes:
                    break
        if not texts:
            raise self._no_documents("train")
        return train_sentencepiece(texts, self.data.vocab_size)

    def _changed(self, batch: Batch, ids: list[np.ndarray], tokenizer: Tokenizer) -> int:
        """How many documents do not come back from their tokens byte for byte. Behind a first batch in which all do,
        their sizes alone are looked at: bytes of all would take a fifth of the time that encoding does."""
        if self.changes is False:
            return sum(
                tokenizer.token_bytes[tokens].sum() != len(document.utf8)
                for document, tokens in zip(batch.documents, ids)
            )
        changed = [
            document.place
            for document, tokens in zip(batch.documents, ids)
            if tokenizer.text_bytes(tokens) != document.utf8
        ]
        if self.changes is None:
            self.changes = bool(changed)
            if changed:
                self.say(
                    f"  {tokenizer.path.name} changes texts: {len(changed):,} of the first {len(ids):,} "
                    f"documents do not come back byte for byte, as {changed[0]}"
                )
        return len(changed)

    def _part(self, encoded: Iterator[tuple[Batch, list]], number: int, tokenizer: Tokenizer, bar: Bar) -> dict | None:
        """The next shard of each split; None behind the last document."""
        writers: dict[str, ShardWriter] = {}
        sizes = dict.fromkeys(SPLITS, 0)
        eos = np.array([tokenizer.eos_id], dtype=np.int32)
        count = changed = 0
        for batch, batch_ids in encoded:
            changed += self._changed(batch, batch_ids, tokenizer)
            for document, ids in zip(batch.documents, batch_ids):
                split = "held_out" if self._is_held_out(document) else "train"
                if split not in writers:
                    writers[split] = ShardWriter(self.work / f"{split}-{number:05}", tokenizer.vocab_size)
                writers[split].add(np.concatenate([ids, eos]))
                sizes[split] += len(document.utf8)
            count += len(batch.documents)
            bar.update(batch.documents[-1].position, sum(map(len, batch_ids)))
            if batch.ends_shard:
                break
        if not count:
            return None
        part: dict = {"documents": count, "changed": int(changed), "splits": {}}
        for split in (split for split in SPLITS if split in writers):
            writer = writers[split]
            writer.finish()
            parts = write_parts(writer.bin_path)
            part["splits"][split] = {
                "name": writer.bin_path.stem,
                "documents": len(writer.lengths),
                "tokens": writer.tokens,
                "bytes": sizes[split],
                "dtype": writer.dtype.name,
                "sha256": {"bin": sha256_of(writer.bin_path), "idx": sha256_of(writer.idx_path)},
            } | ({"parts": vars(parts)} if parts else {})
        return part

    def _finish(self, parts: list[dict], tokenizer: Tokenizer) -> None:
        splits = {split: [part["splits"][split] for part in parts if split in part["splits"]] for split in SPLITS}
        for split in SPLITS:
            if not splits[split]:
                raise self._no_documents(split)
        parted = {"ends_held_out": True} if isinstance(self.source, EndsHeldOut) else {}
        finish(self.work, self.path, self.settings | {"separator": True} | parted, tokenizer, splits, self.say)
        for line in self.tally.told():
            self.say(f"  {line}")
        if changed := sum(part["changed"] for part in parts):
            self.say(
                f"  {changed:,} of {sum(part['documents'] for part in parts):,} documents do not come back byte for "
                "byte: "
                f"{tokenizer.path.name} changes texts"
            )
        if parted:
            self.say(
                f"  held out is the end of each document, its last {self.data.held_out_fraction:.3g}: by whole "
                "documents one of the "
                f"splits would have none"
            )

    def _no_documents(self, split: str) -> ConfigError:
        return ConfigError(
            f"data.source={self.data.source}: too little text for two splits: none is left for {split} "
            f"({'; '.join(self.tally.told())})"
        )
