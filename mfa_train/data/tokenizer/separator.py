"""Which token stands behind every document, and parts it from the next.

It is one of the tokenizer's special tokens, which no text becomes: so separators are as many as documents. It is chosen
once, when a corpus is prepared, and recorded with its id in the corpus's manifest and with a run's final weights; who
reads them takes the record. Before there were records any token of a usual name was taken; what was made then is read
so.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mfa_train.errors import ConfigError, DataError
from mfa_train.words import printable

USUAL = (
    "</s>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<eos>",
    "<|eos|>",
    "<|end▁of▁sentence|>",
    "<｜end▁of▁sentence｜>",
    "<|eot_id|>",
    "<|im_end|>",
    "[EOS]",
)


class Separator(NamedTuple):
    token: str
    id: int
    others: tuple[str, ...] = ()
    """Special tokens that could have been meant as well."""
    in_texts: bool = False
    """Of a corpus made before there were records: an ordinary token, which texts become as well."""

    @property
    def record(self) -> dict[str, Any]:
        return {"token": self.token, "id": self.id}

    @property
    def warning(self) -> str:
        """Where it is `in_texts`."""
        return (
            f"documents end in {printable(self.token)} (id {self.id}), an ordinary token, which texts hold as well: "
            "prepared by an older "
            "version, and read as it was; move the folder away and prepare it anew for documents that end where they "
            "end"
        )

    def told(self) -> str:
        """A line for whoever prepares."""
        others = (
            f"; {', '.join(map(printable, self.others))} could be meant as well: data.eos_token=… names one"
            if self.others
            else ""
        )
        return f"documents end in {printable(self.token)} (id {self.id}){others}"


class Tokens(NamedTuple):
    """What a tokenizer's file has to choose from."""

    path: Path
    special: dict[str, int]
    """Ids of the tokens that no text becomes."""
    id_of: Callable[[str], int | None]
    """Of any token, and None for none."""
    can_be_special: Callable[[str], bool]
    """Whether texts can be kept from becoming this token."""
    own: int | None = None
    """What the file itself says ends a text."""


Choice = Callable[[Tokens], Separator]


def chosen(eos_token: str | None) -> Choice:
    """data.eos_token; None: what the file says, or a special token of a usual name. Raises ConfigError for one that is
    not there, or that texts become."""

    def choose(tokens: Tokens) -> Separator:
        name = tokens.path.name
        if eos_token is not None:
            found = tokens.id_of(eos_token)
            if found is None:
                raise ConfigError(f"data.eos_token={printable(eos_token)}: {name} has no such token; {_mend(tokens)}")
            if eos_token not in tokens.special and not tokens.can_be_special(eos_token):
                raise ConfigError(
                    f"data.eos_token={printable(eos_token)}: an ordinary token of {name}, which texts become as well; "
                    f"{_mend(tokens)}"
                )
            return Separator(eos_token, found)
        own = [token for token, found in tokens.special.items() if found == tokens.own]
        names = own + [token for token in USUAL if token in tokens.special and token not in own]
        if not names:
            raise ConfigError(
                f"data.eos_token=null: {name} has a special token under none of the usual names; {_mend(tokens)}"
            )
        return Separator(names[0], tokens.special[names[0]], tuple(names[1:]))

    return choose


def recorded(record: Any) -> Choice:
    """What a manifest, or a run's final weights, say. Raises DataError where the tokenizer has no such token."""

    def choose(tokens: Tokens) -> Separator:
        try:
            token, found = record["token"], record["id"]
            known = isinstance(token, str) and type(found) is int and tokens.id_of(token) == found
        except (TypeError, KeyError, ValueError):  # ValueError: half of a surrogate pair
            known = False
        if not known:
            raise DataError(
                f"{tokens.path}: not the tokenizer that its corpus was made with: it has no separator "
                f"{printable(str(record))[:80]}"
            )
        return Separator(token, found)

    return choose


def as_before_records(eos_token: str | None) -> Choice:
    """The rule of then: data.eos_token, what the file says, or any token of a usual name, special or not."""

    def choose(tokens: Tokens) -> Separator:
        if eos_token is None and tokens.own is not None:
            return chosen(None)(tokens)
        for token in USUAL if eos_token is None else (eos_token,):
            if (found := tokens.id_of(token)) is not None:
                return Separator(token, found, in_texts=token not in tokens.special)
        return chosen(eos_token)(tokens)  # which refuses

    return choose


def _mend(tokens: Tokens) -> str:
    special = [printable(token) for token in tokens.special]
    some = f" (special here: {', '.join(special[:8])}{', …' if len(special) > 8 else ''})" if special else ""
    return f"type the one that parts documents{some}, as \"data.eos_token='<|im_end|>'\""
