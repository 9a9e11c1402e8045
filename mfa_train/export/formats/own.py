"""Every attention under our own names and keys, for which transformers has no class."""

import dataclasses
from typing import Any

from mfa_train.attention import attention_config, variants
from mfa_train.export.formats.base import Format
from mfa_train.export.formats.config_json import ConfigJson


class Own(Format):
    attentions = tuple(variants())
    model_types = ("mfa_train", *(f"mfa_train_{name}" for name in variants()))

    @property
    def loads(self) -> str:
        return ""

    def settings(self) -> dict[str, Any]:
        return self.common() | {
            "model_type": f"mfa_train_{self.attention.name}",
            "attention": dataclasses.asdict(self.attention),
        }

    @classmethod
    def overrides(cls, settings: ConfigJson) -> dict[str, Any]:
        node = settings.content.get("attention")
        if not isinstance(node, dict) or not isinstance(node.get("name"), str):
            raise settings.refused("attention", "its keys, as {name: mfa, …}")
        keys = dataclasses.asdict(attention_config(node))
        return {"attention": keys["name"], **settings.model()} | {
            f"attention.{key}": value for key, value in keys.items() if key not in ("name", "kernel")
        }

    def rows_together(self, name: str) -> int:
        return 1
