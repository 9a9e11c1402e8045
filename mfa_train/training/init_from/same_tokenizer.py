"""Whether a token's id means the same in the corpus and where the weights come from.

Held against each other are the vocabularies, not the files: the same pieces may stand in a tokenizer.model and in a
tokenizer.json. What differs is a disaster that nothing else would tell, as the shapes are the same.
"""

from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import ConfigError, UserError
from mfa_train.training.init_from.source import Source


def require_same_tokenizer(source: Source, ours: Tokenizer) -> list[str]:
    """What is to be told. Raises ConfigError where an id of the corpus means something else there."""
    try:
        theirs = source.tokenizer()
    except UserError as error:
        return [f"its tokenizer can't be read ({error}): that ids mean the same there is taken on trust"]
    if theirs is None:
        return ["no tokenizer lies with it: that ids mean the same there is taken on trust"]
    if theirs.sha256 == ours.sha256:
        return []
    known = [token for token in range(ours.vocab_size) if ours.known[token]]
    new = [token for token in known if token >= theirs.vocab_size or not theirs.known[token]]
    beyond = set(new)
    other = [token for token in known if token not in beyond and _meaning(ours, token) != _meaning(theirs, token)]
    if other:
        here, there = (_meaning(tokenizer, other[0]) for tokenizer in (ours, theirs))
        raise ConfigError(
            f"init_from={source.path}: {len(other):,} of the {len(known):,} ids of the corpus's tokenizer mean other "
            f"text there, as {other[0]}: {here!r} here, {there!r} there; prepare the corpus with its tokenizer: type "
            f"data.tokenizer={theirs.path} data.path=FOLDER, a new one"
        )
    if new:
        return [
            f"{len(new):,} ids of the corpus's tokenizer, as {new[0]}, are no token there: their rows are untrained"
        ]
    return []


def _meaning(tokenizer: Tokenizer, token: int) -> bytes:
    """The text of a token, or what one that is no text is called."""
    return tokenizer.pieces[token] or tokenizer.name_of(token).encode()
