"""What Hydra composes of configs/ and the words typed. A sweep composes each member, of which most differ in values
alone: what the same choices of files gave is remembered, and the values are set in a copy of it.

A file that changed, came or went since is read anew; what is not a plain choice or a plain value goes through Hydra
whole, and so does whatever is wrong, which Hydra tells in its own words.
"""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource as HydrasFiles
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from mfa_train.config.overrides import holds_choice
from mfa_train.config.yaml_file import read_yaml

SET = (OverrideType.CHANGE, OverrideType.ADD, OverrideType.FORCE_ADD)
State = tuple[int, int] | None
"""When a file was written and how long it is; None of one that is not there."""


class FileConfigSource(HydrasFiles):
    """Hydra's, which opens what it finds with the checks of `read_yaml`. Of the same name, as Hydra wants it."""

    opened: ClassVar[list[tuple[Path, bool]]] = []
    """The files that were, and whether each sets keys of all groups."""
    looked_for: ClassVar[dict[Path, State]] = {}

    def load_config(self, config_path: str) -> ConfigResult:
        path = self._at(config_path)
        tree = read_yaml(path)
        with path.open(encoding="utf-8") as file:
            header = self._get_header_dict(file.read(512))
        self.opened.append((path, header.get("package") == "_global_"))
        return ConfigResult(
            config=OmegaConf.create(tree), path=f"file://{self.path}", provider=self.provider, header=header
        )

    def is_config(self, config_path: str) -> bool:
        return os.path.exists(self._at(config_path))  # a folder of that name is told

    def _at(self, config_path: str) -> Path:
        path = Path(self.path) / self._normalize_file_name(config_path)
        self.looked_for.setdefault(path, _state(path))
        return path


SourcesRegistry.instance().types["file"] = FileConfigSource
_remembered: dict[tuple[str, ...], tuple[DictConfig, list[tuple[Path, bool]], dict[Path, State]]] = {}


def composed(words: Sequence[str], folder: Path) -> DictConfig:
    """`folder`/train.yaml with `words`, as hydra.compose gives it. Raises what Hydra raises."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
        if all(map(_is_plain, parsed)):
            choices = [word for word, one in zip(words, parsed) if _is_choice(one)]
            tree = copy.deepcopy(_of_choices(choices, folder))
            ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if not _is_choice(one)], tree)
            return tree
    except Exception:
        pass  # Hydra says it, below
    return _by_hydra(words, folder)


def _of_choices(choices: Sequence[str], folder: Path) -> DictConfig:
    key = (str(folder), *choices)
    if key in _remembered:
        tree, opened, looked_for = _remembered[key]
        if all(_state(path) == state for path, state in looked_for.items()):
            FileConfigSource.opened[:] = opened
            return tree
    tree = _by_hydra(choices, folder)
    _remembered[key] = tree, [*FileConfigSource.opened], {**FileConfigSource.looked_for}
    return tree


def _by_hydra(words: Sequence[str], folder: Path) -> DictConfig:
    GlobalHydra.instance().clear()
    FileConfigSource.opened.clear()
    FileConfigSource.looked_for.clear()
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose("train", overrides=list(words))


def _is_choice(one: Override) -> bool:
    return holds_choice(one.key_or_group)


def _is_plain(one: Override) -> bool:
    whole = one.package is None and one.type in SET and not one.is_sweep_override()
    return whole and not one.is_hydra_override() and (not _is_choice(one) or isinstance(one.value(), str))


def _state(path: Path) -> State:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
