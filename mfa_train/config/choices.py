"""The choices of a group of configs/, and which of them have a key that others lack."""

from mfa_train.config.overrides import CONFIG_DIR
from mfa_train.config.yaml_file import read_yaml
from mfa_train.errors import ConfigError


def choices_of(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def of_other_choices(given: str, key: str, chosen: str) -> ConfigError | None:
    """What to say to `given` (KEY=VALUE, or KEY) where `key` (with its group) is of other choices than the `chosen`
    one; None where it is of none."""
    *_, group, name = f".{key}".split(".")  # feed_forward=… is of model.feed_forward
    having = [choice for choice in choices_of(group) if name in read_yaml(CONFIG_DIR / group / f"{choice}.yaml")]
    if not having or chosen not in choices_of(group):
        return None
    *others, last = having
    which = f"{', '.join(others)} or {last}, which have it" if others else f"{last}, which has it"
    return ConfigError(f"{given}: {group}={chosen} has no such key: type {group}={which}, or leave it out")
