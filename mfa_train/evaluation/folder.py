"""A folder of tasks as yaml files in lm-eval's form, read without running anything that stands in them.

lm-eval lets a task name Python to run (`!function`, `class`), metrics and prompts to be fetched with their code, and
data in pickles. Of a folder that was named on a command line all that is refused; templates run in Jinja's sandbox
(`tasks.py`). Data are files on disk, relative to the yaml's folder, or data sets of the Hub.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mfa_train.data.preparing.sources.hub import LOADERS
from mfa_train.errors import ConfigError, did_you_mean
from mfa_train.words import brief, first_line

STRUCTURE = ("tag", "include", "task_list")
"""Keys of a yaml file that are not a task's own."""


class Code(str):
    """What `!function` names; never imported."""


class _Loader(yaml.SafeLoader):
    """Plain values."""


_Loader.add_constructor("!function", lambda loader, node: Code(loader.construct_scalar(node)))


class TaskFolder:
    """Its tasks, groups of tasks and tags, by name. Files that are no task are passed over; a damaged one is told where
    a name isn't found."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tasks: dict[str, dict] = {}
        self.groups: dict[str, list] = {}
        self.paths: dict[str, Path] = {}
        self.damaged: list[str] = []
        for path in sorted(folder.rglob("*.yaml")):
            try:
                self._add(path, _read(path))
            except (OSError, RecursionError, TypeError, ValueError, yaml.YAMLError) as error:
                self.damaged.append(f"{path}: {_line(error)}")

    def __contains__(self, name: str) -> bool:
        return name in self.tasks or name in self.groups

    def configs(self, name: str) -> Iterator[dict[str, Any]]:
        """lm-eval's config of each task that `name` is or holds. Raises ConfigError for what cannot be used."""
        yield from self._configs(name, (), {})

    def _add(self, path: Path, content: dict) -> None:
        name = content.get("group", content.get("task"))
        if name is None:
            return
        if not isinstance(name, str):
            raise ValueError(f"group: and task: name a group and a task, not {brief(name)}")
        if name in self:
            raise ConfigError(f"{path}: {name} is also in {self.paths[name]}; rename one of them")
        self.paths[name] = path
        if "group" in content:
            members = content.get("task")
            self.groups[name] = members if isinstance(members, list) else [members]
            return
        self.tasks[name] = content
        tags = content.get("tag") or []
        for tag in [tags] if isinstance(tags, str) else tags:
            self.paths.setdefault(tag, path)
            self.groups.setdefault(tag, []).append(name)

    def _configs(self, name: str, within: tuple[str, ...], overrides: dict) -> Iterator[dict[str, Any]]:
        if name in self.tasks:
            config = {key: value for key, value in self.tasks[name].items() if key not in STRUCTURE}
            try:
                yield usable(config | overrides, self.paths[name])
            except (AttributeError, RecursionError, TypeError, ValueError) as error:
                raise ConfigError(f"{self.paths[name]}: not in lm-eval's form ({first_line(error)})") from error
            return
        for member in self.groups[name]:
            task, changed = (member.get("task"), member) if isinstance(member, dict) else (member, {})
            if not isinstance(task, str) or task not in self or task in within:
                raise ConfigError(
                    f"{self.paths[name]}: group {name} holds {brief(task)}, which is no other task, group or tag "
                    f"of {self.folder}"
                )
            yield from self._configs(task, (*within, name), changed | overrides)


def usable(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The task's config with its data's places made absolute. Raises ConfigError where it would run code or names what
    lm-eval hasn't."""
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
    from lm_eval.config.task import TaskConfig

    where = f"{path}: task {config['task']}"
    if code := next(_code(config), None):
        raise ConfigError(
            f"{where}: {code} would run Python, and code from a folder isn't run; write templates, or change the data"
        )
    known = [field.name for field in dataclasses.fields(TaskConfig)]
    for key in config:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {brief(key)}.{did_you_mean(str(key), known)}")
    for metric in config.get("metric_list") or []:
        given = metric if isinstance(metric, dict) else {"metric": metric}
        for key, registry in (("metric", METRIC_REGISTRY), ("aggregation", AGGREGATION_REGISTRY)):
            if key in given and given[key] not in registry:
                raise ConfigError(
                    f"{where}: unknown {key} {brief(given[key])}.{did_you_mean(str(given[key]), list(registry))}"
                )
    loader = config.get("dataset_path")
    if not isinstance(loader, str) or loader == "pandas":
        raise ConfigError(
            f"{where}: dataset_path: {brief(loader)}: expected one of {', '.join(LOADERS)}, or a data set's name"
        )
    return _with_files_found(config, path, where) if loader in LOADERS else config


def _with_files_found(config: dict, path: Path, where: str) -> dict:
    """`data_files` of dataset_kwargs, absolute."""
    options = dict(config.get("dataset_kwargs") or {})
    files = options.get("data_files")
    if not files:
        raise ConfigError(f"{where}: no dataset_kwargs.data_files; write {{data_files: {{test: FILE}}}}")
    splits = files if isinstance(files, dict) else {"train": files}
    options["data_files"] = {
        split: [_found(name, path.parent, where) for name in ([names] if isinstance(names, str) else names)]
        for split, names in splits.items()
    }
    return config | {"dataset_kwargs": options}


def _found(name: str, folder: Path, where: str) -> str:
    if "://" in name:
        return name
    file = folder.absolute() / name
    if not any(sign in name for sign in "*?["):
        if not file.is_file():
            raise ConfigError(f"{where}: data_files: there is no file {file}")
        if not file.stat().st_size:
            raise ConfigError(f"{where}: data_files: {file} is empty")
    return str(file)


def _code(config: dict) -> Iterator[str]:
    """Keys that would run code, as they stand."""
    for key, value in config.items():
        for part in _parts(value):
            if isinstance(part, Code):
                yield f"{key}: !function {part}"
            elif isinstance(part, dict) and part.get("hf_evaluate"):
                yield f"{key}: hf_evaluate: true"
        if key in ("class", "use_prompt", "unsafe_code") and value:
            yield f"{key}: {brief(value)}"


def _parts(value: Any) -> Iterator[Any]:
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in inner:
        yield from _parts(part)


def _read(path: Path, within: tuple[Path, ...] = ()) -> dict:
    """The file's keys over those of the files that it includes, as in lm-eval."""
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    if not isinstance(content, dict):
        raise ValueError("not a mapping")
    merged: dict = {}
    included = content.get("include") or []
    for name in [included] if isinstance(included, str) else included:
        other = (path.parent / name).resolve()
        if other in within:
            raise ValueError(f"included by itself, through {other}")
        merged |= _read(other, (*within, path.resolve()))
    merged.pop("include", None)
    return merged | content


def _line(error: Exception) -> str:
    """What is wrong and where, in one line."""
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: {error.problem}" if mark else first_line(error)  # type: ignore[attr-defined]
