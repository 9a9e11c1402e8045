"""Every attention under our own names and keys, for which transformers has no class."""

import dataclasses
from typing import Any

from mfa_train.attention import variants
from mfa_train.export.formats.base import Format


class Own(Format):
    attentions = tuple(variants())

    @property
    def loads(self) -> str:
        return ""

    def settings(self) -> dict[str, Any]:
        return self.common() | {
            "model_type": f"mfa_train_{self.attention.name}",
            "attention": dataclasses.asdict(self.attention),
        }
