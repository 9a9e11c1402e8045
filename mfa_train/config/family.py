"""A group of configs/ each of whose choices is a class, in a module of its name; the class says its keys."""

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from mfa_train.config.choices import choices_of, of_other_choices
from mfa_train.config.overrides import written
from mfa_train.config.typed import typed
from mfa_train.errors import ConfigError, did_you_mean
from mfa_train.words import brief

Kind = TypeVar("Kind")


class Family(Generic[Kind]):
    """The subclasses of `base`, a module each of `package`, whose `Config` is the dataclass of the config node
    `where`."""

    def __init__(self, base: type[Kind], package: str, where: str):
        self.base, self.package, self.where = base, package, where
        self.group = where.rpartition(".")[2]

    def choices(self) -> list[str]:
        return choices_of(self.group)

    def class_of(self, name: str) -> type[Kind]:
        """Raises ConfigError for a name without a file."""
        if name not in self.choices():
            known = did_you_mean(name, self.choices())
            raise ConfigError(f"{self.where}.name={brief(name)}: no such {self.group.replace('_', '-')}.{known}")
        module = import_module(f"{self.package}.{name}")
        return next(
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, self.base) and value.__module__ == module.__name__
        )

    def config_of(self, node: Mapping[str, Any]) -> Any:
        """The config node, typed and checked by its class. Raises ConfigError."""
        schema = self.class_of(node["name"]).Config  # type: ignore[attr-defined]
        for key in sorted(node.keys() - {field.name for field in dataclasses.fields(schema)}):
            given = f"{self.where}.{key}"
            if told := of_other_choices(f"{given}={written(node[key])}", given, node["name"]):
                raise told
        return typed(schema, node, self.where)
