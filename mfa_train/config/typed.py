"""A plain mapping as an object of a dataclass, or one line that says which key is wrong."""

import dataclasses
import re
from typing import Any, TypeVar, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mfa_train.errors import ConfigError, did_you_mean

Schema = TypeVar("Schema")
EXPECTED = {"Integer": "a whole number", "Float": "a number", "bool": "true or false", "Boolean": "true or false"}


def typed(schema: type[Schema], node: Any, where: str = "") -> Schema:
    """The mapping `node` as an object of the dataclass `schema`.

    Raises ConfigError, naming the key below `where`, for an unknown key, a missing one or a value of another type.
    """
    prefix = f"{where}." if where else ""
    _check_keys(schema, node, prefix)
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{prefix}{error.full_key}{_mistyped(error)}") from error


def _mistyped(error: OmegaConfBaseException) -> str:
    """What follows the key: `=VALUE: expected …` where the value is of another type."""
    if "is not a ListConfig" in first_line(error):
        return ": expected a list, as [FIRST,SECOND]"
    found = re.match(r"Value '(.*)' (?:of type '.*' could not be converted to|is not a valid) (\w+)", first_line(error))
    return f"={found[1]}: expected {EXPECTED.get(found[2], found[2])}" if found else f": {first_line(error)}"


def _check_keys(schema: type, node: Any, prefix: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for key, value in node.items():
        if key not in fields:
            raise ConfigError(f"{prefix}{key}: no such key.{did_you_mean(f'{prefix}{key}', [prefix + name for name in fields])}")
        for schema_below in filter(dataclasses.is_dataclass, (fields[key].type, *get_args(fields[key].type))):
            if isinstance(value, dict):
                _check_keys(schema_below, value, f"{prefix}{key}.")
            for place, one in enumerate(value if isinstance(value, list) else []):
                if not isinstance(one, dict):
                    raise ConfigError(f"{prefix}{key}[{place}]={one}: expected keys with values, as {{KEY: VALUE}}")
                typed(schema_below, one, f"{prefix}{key}[{place}]")
    required = {name for name, field in fields.items()
                if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING}
    if missing := sorted(required - set(node)):
        raise ConfigError(f"{prefix}{missing[0]} is missing")


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {key: value for name, child in node.items()
            for key, value in flat(child, f"{prefix}.{name}" if prefix else name).items()}


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
