"""Every attention under our own names and keys, with the code that reads them: `trust_remote_code=True`."""

import dataclasses
from typing import Any

from mfa_train.attention import variants
from mfa_train.export.formats.base import Format
from mfa_train.export.remote.files import AUTO_MAP, remote_files


class Remote(Format):
    attentions = tuple(variants())
    remote_code = True
    stacked = True

    @property
    def loads(self) -> str:
        return "MfaTrainForCausalLM"

    def settings(self) -> dict[str, Any]:
        return self.common() | {
            "model_type": "mfa_train",
            "architectures": [self.loads],
            "auto_map": AUTO_MAP,
            "attention": dataclasses.asdict(self.attention),
            "feed_forward": dataclasses.asdict(self.feed_forward),
        }

    def files(self) -> dict[str, bytes]:
        return remote_files(self.attention.name, self.feed_forward.name)
