"""The corpora that `data` names: prepared where they aren't yet, and opened."""

from collections.abc import Callable

from mfa_train.config import DataConfig
from mfa_train.data.corpus import Corpus
from mfa_train.data.preparing.prepare import prepare
from mfa_train.data.shards.cache import ShardCache, is_url
from mfa_train.errors import ConfigError


def prepare_all(data: DataConfig, say: Callable[[str], None] = print, check: bool = False) -> None:
    """Makes the corpus in data.path where it isn't there yet; with `check` holds every file against its manifest. Corpora
    that only are read (data=prepared, data=mixture) are opened. Raises UserError."""
    if data.source in ("prepared", "mixture"):
        for corpus in open_all(data, say, check).values():
            say(f"{corpus.path}: {corpus.train.num_tokens:,} tokens, a vocabulary of {corpus.vocab_size:,}")
    elif is_url(data.path):
        raise ConfigError(f"data.path={data.path}: corpora are prepared on disk; prepare it in a folder, copy that there, and "
                          "read it with data=prepared")
    else:
        prepare(data, say, check)


def open_all(data: DataConfig, say: Callable[[str], None] = lambda message: None, check: bool = False) -> dict[str, Corpus]:
    """The corpora by name, in the order of the config: one, but for a mixture. Raises UserError."""
    paths = {data.name: data.path}
    if data.source == "mixture":
        paths = data.corpora or {}
        if not paths:
            raise ConfigError("data.corpora: expected a name and the folder or URL of each prepared corpus, as "
                              "data.corpora='{code: data/code-16384, web: s3://bucket/web-16384}'")
    cache = ShardCache(data.cache_dir, data.cache_bytes, say)
    return {name: Corpus(path, cache, check) for name, path in paths.items()}
