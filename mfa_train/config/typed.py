"""A plain mapping as an object of a dataclass, or one line that says which key is wrong.

1. `converted` gives every value the type that the schema says, as exactly as it was written: 1e2 is a whole number,
   text is text. What stands for another key's value, ${...}, is left as it is.
2. `typed` makes the objects of it, whose own checks then run.
"""

import dataclasses
import functools
import operator
from collections.abc import Collection, Iterator, Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, Union, get_args, get_origin

from mfa_train.config.once import FALSE, TRUE, OnceYesOrNo
from mfa_train.config.quantities import Bytes, bytes_of, whole
from mfa_train.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Schema = TypeVar("Schema", bound="DataclassInstance")
EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def typed(schema: type[Schema], node: Any, where: str = "") -> Schema:
    """The mapping `node` as an object of the dataclass `schema`.

    Raises ConfigError, naming the key below `where`, for an unknown key, a missing one or a value of another type.
    """
    return _built(schema, converted(schema, node, where))


def as_it_was(schema: type[Schema], node: Any, over: Collection[str]) -> Schema:
    """The same of values that may have been right once: what `schema` itself and its parts in `over` ask beyond types
    is not asked. Raises ConfigError."""
    return _unasked(schema, converted(schema, node), over)


def converted(
    schema: type["DataclassInstance"], node: Any, where: str = "", unresolved: bool = False
) -> dict[str, Any]:
    """`node` with each value of its type, in the schema's order; with `unresolved` values that hold ${...} stay. Raises
    ConfigError."""
    prefix, fields = f"{where}." if where else "", dataclasses.fields(schema)
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}={node}: expected keys with values, as {{KEY: VALUE}}")
    known = [prefix + field.name for field in fields]
    for key in node:
        if "." in str(key):
            group, _, name = str(key).partition(".")
            raise ConfigError(f"{prefix}{key}: in a file keys stand below their groups, as {group}: {{{name}: VALUE}}")
        if f"{prefix}{key}" not in known:
            raise ConfigError(f"{prefix}{key}: no such key.{did_you_mean(f'{prefix}{key}', known)}")
    for field in fields:
        if field.name not in node and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{field.name} is missing")
    return {
        field.name: _value(field.type, node[field.name], prefix + field.name, unresolved)
        for field in fields
        if field.name in node
    }


def alternatives(kind: Any) -> tuple[Any, bool]:
    """Of `TYPE | None` the type and True, of any other `kind` itself and False."""
    if get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
        return functools.reduce(operator.or_, (one for one in get_args(kind) if one is not NoneType)), True
    return kind, False


def is_schema(kind: Any) -> TypeGuard[type["DataclassInstance"]]:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def leaves(schema: type["DataclassInstance"], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key with dots, type) of each value of the dataclass `schema`."""
    for field in dataclasses.fields(schema):
        kind, _ = alternatives(field.type)
        if is_schema(kind):
            yield from leaves(kind, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, kind


def _value(kind: Any, value: Any, key: str, unresolved: bool) -> Any:
    kind, optional = alternatives(kind)
    if (
        kind is Any
        or (value is None and optional)
        or (unresolved and isinstance(value, str) and ("${" in value or value == "???"))
    ):
        return value
    if is_schema(kind):
        return converted(kind, value, key, unresolved)
    for once in getattr(kind, "__metadata__", ()):
        if isinstance(once, OnceYesOrNo):
            kind, value = get_args(kind)[0], once.word(value)
    if get_origin(kind) is list:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key}={value}: expected a list, as [FIRST,SECOND]")
        return [_value(get_args(kind)[0], one, f"{key}[{place}]", unresolved) for place, one in enumerate(value)]
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}={value}: expected keys with values, as {{KEY: VALUE}}")
        for name in value:
            if not isinstance(name, str):
                raise ConfigError(f"{key}: {name!r}: expected a name, in quotes where it looks like something else")
        return {name: _value(get_args(kind)[1], one, f"{key}.{name}", unresolved) for name, one in value.items()}
    if value is None:
        default = ": leave it out for its default" if kind is str else ""
        raise ConfigError(f"{key}=null: expected {EXPECTED.get(kind, 'a number of bytes')}{default}")
    return bytes_of(key, value) if kind == Bytes else _SCALARS[kind](key, value)


def _int(key: str, value: Any) -> int:
    if (number := whole(value)) is None:
        raise ConfigError(f"{key}={value}: expected {EXPECTED[int]}")
    return number


def _float(key: str, value: Any) -> float:
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise ConfigError(f"{key}={value}: expected {EXPECTED[float]}")


def _bool(key: str, value: Any) -> bool:
    if (word := str(value).lower()) not in TRUE + FALSE:
        raise ConfigError(f"{key}={value}: expected {EXPECTED[bool]}")
    return word in TRUE


def _str(key: str, value: Any) -> str:
    if not isinstance(value, str):
        how = (
            f"as '{value}'"
            if key.endswith("]")
            else f"as {key}=\"'{value}'\", or {key.split('.')[-1]}: '{value}' in a file"
        )
        raise ConfigError(f"{key}={value}: expected text: in quotes, {how}")
    if "\0" in value:
        raise ConfigError(f"{key}={value}: expected text without the character 0")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{key}={value}: expected text in UTF-8, and this holds bytes that are not") from None
    return value


_SCALARS = {int: _int, float: _float, bool: _bool, str: _str}


def _built(schema: type[Schema], values: dict[str, Any]) -> Schema:
    return schema(
        **{
            field.name: _objects(field.type, values[field.name])
            for field in dataclasses.fields(schema)
            if field.name in values
        }
    )


def _unasked(schema: type[Schema], values: dict[str, Any], over: Collection[str]) -> Schema:
    made = object.__new__(schema)
    for field in dataclasses.fields(schema):
        kind, _ = alternatives(field.type)
        value = values[field.name]
        setattr(made, field.name, _unasked(kind, value, ()) if field.name in over else _objects(kind, value))
    return made


def _objects(kind: Any, value: Any) -> Any:
    kind, _ = alternatives(kind)
    if value is None:
        return None
    if is_schema(kind):
        return _built(kind, value)
    if get_origin(kind) is list and is_schema(get_args(kind)[0]):
        return [_built(get_args(kind)[0], one) for one in value]
    return value


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested keys as one, with dots."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in flat(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }
