"""The corpora that `data` names: prepared where they aren't yet, and opened."""

import re
import shlex
from collections.abc import Callable, Mapping

from mfa_train.config import Config, DataConfig
from mfa_train.data.corpus import Corpus
from mfa_train.data.preparing.prepare import prepare
from mfa_train.data.reach import NoBucket, mend, require_place
from mfa_train.data.shards.cache import OutOfReach, ShardCache, is_url
from mfa_train.errors import ConfigError, UserError


def prepare_all(data: DataConfig, say: Callable[[str], None] = print, check: bool = False) -> dict[str, dict]:
    """Makes the corpus in data.path where it isn't there yet; with `check` holds every file against its manifest, and
    says what to type next. Corpora that only are read (data=prepared, data=mixture) are opened. Gives each one's
    manifest, by name. Raises UserError."""
    if data.source in ("prepared", "mixture"):
        corpora = open_all(data, say, check)
        for corpus in corpora.values():
            if corpus.tokenizer.separator.in_texts:
                say(f"warning: {corpus.path}: {corpus.tokenizer.separator.warning}")
            say(f"{corpus.path}: {corpus.train.num_tokens:,} tokens, a vocabulary of {corpus.vocab_size:,}")
        return {name: corpus.manifest for name, corpus in corpora.items()}
    if is_url(data.path):
        raise ConfigError(
            f"data.path={data.path}: corpora are prepared on disk; prepare it in a folder, copy that there, and "
            "read it with data=prepared"
        )
    corpus = prepare(data, say, check)
    if check:
        say(
            f"{corpus.path}: {corpus.train.num_tokens:,} tokens, a vocabulary of {corpus.vocab_size:,}; train on "
            "it with"
        )
        say(
            f"  python train.py data=prepared {_override('data.path', corpus.path)} data.vocab_size={corpus.vocab_size}"
        )
    return {data.name: corpus.manifest}


def _override(key: str, value: str) -> str:
    """KEY=VALUE as a shell and Hydra take it."""
    if re.fullmatch(r"[\w./@+-]+", value, re.ASCII):
        return f"{key}={value}"
    quoted = re.sub(r"(\\*)(?='|$)", r"\1\1", value).replace("'", "\\'")  # a backslash counts before a quote alone
    return shlex.quote(f"{key}='{quoted}'")


def open_all(
    data: DataConfig,
    say: Callable[[str], None] = lambda message: None,
    check: bool = False,
    manifests: Mapping[str, dict] | None = None,
) -> dict[str, Corpus]:
    """The corpora by name, in the order of the config: one, but for a mixture. `manifests`: what `prepare_all` gave,
    here or in another process; without it they are read. Raises UserError."""
    paths = {data.name: data.path}
    if data.source == "mixture":
        paths = data.corpora or {}
        if not paths:
            raise ConfigError(
                "data.corpora: expected a name and the folder or URL of each prepared corpus, as "
                "data.corpora='{code: data/code-16384, web: s3://bucket/web-16384}'"
            )
    told = {
        name: f"data.corpora.{name}={path}" if data.source == "mixture" else f"data.path={path}"
        for name, path in paths.items()
    }
    for name, path in paths.items():
        if not path.strip() or "\0" in path:
            raise ConfigError(f"{told[name]}: expected the folder or URL of a prepared corpus")
        require_place(told[name], path)
    cache = ShardCache(data.cache_dir, data.cache_bytes, say)
    corpora = {}
    for name, path in paths.items():
        try:
            corpora[name] = Corpus(path, cache, check, (manifests or {}).get(name))
        except OutOfReach as error:
            raise _refused(told[name], path, error) from error
    return corpora


def _refused(told: str, path: str, error: OutOfReach) -> UserError:
    """Why the corpus at `path`, named as `told` says, can't be opened: of a place that isn't there or isn't open to
    these credentials a ConfigError, of one that lacks a file the error itself."""
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError) and not isinstance(cause, NoBucket):
        return error
    no_bucket = f"; type {told.partition('=')[0]}=URL of a prepared corpus"
    what_to_do = no_bucket if isinstance(cause, NoBucket) else mend(cause, path)
    refusal = ConfigError(f"{told}: {str(error).removeprefix(f'{path}/')}{what_to_do}")
    refusal.everywhere = False  # one node's environment may lack what the others' have
    return refusal


def require_readable(config: Config, corpora: dict[str, Corpus]) -> None:
    """Raises ConfigError where the model can't read their tokens, or the mask can't find their documents."""
    for corpus in corpora.values():
        if config.data.document_mask and not corpus.manifest.get("separator", True):
            raise ConfigError(
                f"data.document_mask=true: {corpus.path} has no separator between its documents (its manifest says "
                "so); type data.document_mask=false"
            )
        if corpus.vocab_size > config.model.vocab_size:
            raise ConfigError(
                f"model.vocab_size={config.model.vocab_size} is smaller than the tokenizer's vocabulary of "
                f"{corpus.vocab_size}: type model.vocab_size={corpus.vocab_size}"
            )
