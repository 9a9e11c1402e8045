"""Values of keys that were true or false once, and are words now."""

from dataclasses import dataclass
from typing import Any

TRUE, FALSE = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")


@dataclass(frozen=True)
class OnceYesOrNo:
    """Beside the type of a field of the schema: the words for what was `true` and `false`."""

    yes: str
    no: str

    def word(self, value: Any) -> Any:
        """`value` of a config of today or of then, as today's."""
        said = str(value).lower()
        return self.yes if said in TRUE else self.no if said in FALSE else value
