"""Every attention under our own names and keys, with the code that reads them: `trust_remote_code=True`."""

import dataclasses
from typing import Any

from mfa_train.attention import attention_config, variants
from mfa_train.export.formats.base import Format
from mfa_train.export.formats.config_json import ConfigJson
from mfa_train.export.remote.files import AUTO_MAP, remote_files


class Remote(Format):
    attentions = tuple(variants())
    remote_code = True
    model_types = ("mfa_train", *(f"mfa_train_{name}" for name in variants()))
    """The others are of exports from before there was code beside them."""

    @property
    def loads(self) -> str:
        return "MfaTrainForCausalLM"

    def settings(self) -> dict[str, Any]:
        return self.common() | {
            "model_type": "mfa_train",
            "architectures": [self.loads],
            "auto_map": AUTO_MAP,
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

    def files(self) -> dict[str, bytes]:
        return remote_files(self.attention.name)
