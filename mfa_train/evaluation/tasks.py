"""Tasks by name, as objects of lm-eval that are ready to be evaluated: of a folder of yaml files (`folder.py`), or else
lm-eval's own, whose data come from the Hugging Face Hub.

Everything that can be wrong with a task is found here, before there is a model: names, data, few-shot examples and, of
a folder's tasks, the requests of every document.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mfa_train.config import EvaluationConfig
from mfa_train.data.preparing.sources.hub import LOADERS, why
from mfa_train.errors import ConfigError, did_you_mean
from mfa_train.evaluation.folder import TaskFolder
from mfa_train.evaluation.gold import golds
from mfa_train.evaluation.needle import NAME as NEEDLE
from mfa_train.evaluation.quiet import quiet
from mfa_train.words import brief, first_line

OWN = "lm-eval's own"
MOST_TOLD = 3
"""Damaged files."""
CACHED = "what is in its cache is used with HF_HUB_OFFLINE=1, and tasks of a folder need no Hub: docs/evaluation.md"


def load_tasks(config: EvaluationConfig) -> dict[str, Any]:
    """{name: lm-eval's Task} of `config.tasks` in their order, groups and tags as the tasks that they hold.

    Raises ConfigError: an unknown name; a task that would run code of the folder, or code that a model has written;
    data that can't be read or reached; fewer few-shot examples than asked for; a document without an answer among its
    choices.
    """
    folder = TaskFolder(Path(config.tasks_dir))
    if NEEDLE in config.tasks and NEEDLE not in folder:
        raise ConfigError(
            f"evaluation.tasks={NEEDLE}: no such task in {folder.folder} (evaluation.tasks_dir): make it first: type "
            f"mfa-train {NEEDLE} --lengths 256,1024, with data=… as the run has it"
        )
    with quiet():
        _sandbox_templates()
        own = _own_tasks() if any(name not in folder for name in config.tasks) else {}
        tasks: dict[str, Any] = {}
        for name in config.tasks:
            if name in folder:
                tasks |= _of_folder(folder, name)
            elif name in own:
                tasks |= own[name]()
            else:
                raise ConfigError(_unknown(name, folder, list(own)))
        for name, task in tasks.items():
            if getattr(task, "MULTIMODAL", False):
                raise ConfigError(
                    f"evaluation.tasks={name}: it shows pictures or sounds, and a run here reads text alone"
                )
            _set_shots(name, task, config.num_fewshot)
            if name in folder:
                _require_requests(f"{folder.paths[name]}: task {name}", task, config.limit)
    return tasks


@functools.cache
def _sandbox_templates() -> None:
    """From now on lm-eval's templates, which a yaml file may hold, can't reach Python; and each is compiled once."""
    import jinja2.sandbox
    import lm_eval.utils

    class Sandbox(jinja2.sandbox.SandboxedEnvironment):
        from_string = functools.lru_cache(jinja2.sandbox.SandboxedEnvironment.from_string)  # type: ignore[assignment]

    plain = lm_eval.utils.env
    sandbox = Sandbox(loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=True)
    sandbox.filters.update(plain.filters)
    lm_eval.utils.env = sandbox


def _of_folder(folder: TaskFolder, name: str) -> dict[str, Any]:
    from lm_eval.api.task import ConfigurableTask

    tasks = {}
    for config in folder.configs(name):
        task, dataset = config["task"], config["dataset_path"]
        where = f"{folder.paths[task]}: task {task}"
        if dataset not in LOADERS:
            _require_hub(task, dataset)
            tasks[task] = _made(where, functools.partial(ConfigurableTask, config=config), CACHED)
            continue
        # A cache that ranks and runs share would be locked and outlive its files.
        with tempfile.TemporaryDirectory() as cache:
            options = config["dataset_kwargs"] | {"cache_dir": cache, "keep_in_memory": True}
            whole = config | {"dataset_kwargs": options}
            tasks[task] = _made(where, functools.partial(ConfigurableTask, config=whole))
    return tasks


def _own_tasks() -> dict[str, Callable[[], dict[str, Any]]]:
    """What loads each of lm-eval's own tasks, groups and tags; to find them in its 15,000 files takes seconds."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    return {name: functools.partial(_own, manager, name) for name in manager.all_tasks}


def _own(manager: Any, name: str) -> dict[str, Any]:
    asked: dict[str, str] = {}
    for task, config in _leaves(manager.task_index, name):
        if config.get("unsafe_code"):
            raise ConfigError(
                f"evaluation.tasks={name}: {task} runs what a model has written, which is not done here; leave it out"
            )
        if isinstance(dataset := config.get("dataset_path"), str) and dataset not in LOADERS:
            asked.setdefault(dataset, task)
    for dataset, task in asked.items():
        _require_hub(task, dataset)
    return _made(f"evaluation.tasks={name}", lambda: manager.load([name])["tasks"], CACHED)


def _leaves(index: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, config) of each task that a task, group or tag of lm-eval's index is or holds."""
    entry = index.get(name)
    config = (entry.cfg if entry else None) or {}
    if isinstance(members := config.get("task"), str):
        yield name, config
    elif entry:
        for member in members or sorted(entry.tags):
            inner = member if isinstance(member, str) else member.get("task") or member.get("group")
            if isinstance(inner, str):
                yield from _leaves(index, inner)


def _require_hub(task: str, dataset: str) -> None:
    """Fails at once where `datasets` would try for half a minute."""
    import datasets
    import huggingface_hub

    if Path(dataset).exists() or datasets.config.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.HfApi().dataset_info(dataset, timeout=30)
    except Exception as error:  # of a dozen types, from several libraries
        raise ConfigError(f"evaluation.tasks={task}: its data set {dataset}: {why(error, CACHED)}") from error


def _made(where: str, make: Callable[[], Any], elsewhere: str | None = None) -> Any:
    """`elsewhere`: what to do where the Hub can't be reached, of data that lie there."""
    try:
        return make()
    except IndexError as error:  # what `datasets` makes of no rows, and lm-eval of a first one without its answer
        raise ConfigError(f"{where}: it has no documents, or the first has no answer among its choices") from error
    except KeyError as error:
        raise ConfigError(f"{where}: there is no split, field or filter {error}") from error
    except Exception as error:  # of a dozen types, from several libraries
        told = why(error, elsewhere) if elsewhere else f"cannot be read ({first_line(error.__cause__ or error)})"
        raise ConfigError(f"{where}: {told}") from error


def _unknown(name: str, folder: TaskFolder, own: list[str]) -> str:
    near = did_you_mean(name, [*folder.paths, *own])
    damaged = f" Damaged there: {'; '.join(folder.damaged[:MOST_TOLD])}." if folder.damaged else ""
    there = "" if folder.folder.is_dir() else ", which is no folder"
    return (
        f"evaluation.tasks={brief(name)}: no such task in {folder.folder} (evaluation.tasks_dir{there}), nor of {OWN}."
        f"{near}{damaged}"
    )


def _set_shots(name: str, task: Any, asked: int | None) -> None:
    """As lm-eval does it: the task's own number, or what was asked for. Raises ConfigError where there are too few."""
    given = task.get_config("num_fewshot")
    if asked is not None and given == 0 != asked:
        raise ConfigError(
            f"evaluation.num_fewshot={asked}: the prompts of {name} are fixed (num_fewshot: 0 in its file); "
            "score it apart, without num_fewshot"
        )
    shots = asked if asked is not None else given or 0
    task.set_config(key="num_fewshot", value=shots)
    if not shots or not hasattr(task, "sampler"):
        return
    available = len(task.sampler.fewshot_docs()) - _leaves_out_the_asked(task)
    if shots > available:
        raise ConfigError(f"evaluation.num_fewshot={shots}: {name} has {available} examples; type at most {available}")


def _leaves_out_the_asked(task: Any) -> bool:
    """Whether a document is never an example before itself; lm-eval's rule."""
    return task.fewshot_cfg.split == task.config.test_split


def _require_requests(where: str, task: Any, limit: int | None) -> None:
    """Every document's prompt and answer can be made. Raises ConfigError naming the first that cannot."""
    config = task.config
    evaluated = config.test_split or config.validation_split
    source = task.fewshot_cfg.split or config.training_split or config.validation_split or config.test_split
    if config.num_fewshot and source == evaluated and not task.fewshot_cfg.samples and not _leaves_out_the_asked(task):
        raise ConfigError(
            f"{where}: examples would be drawn from the documents that are scored, answers and all; write fewshot_split"
        )
    task.set_fewshot_seed(0)
    _made(where, lambda: task.build_all_requests(limit=limit))
    for number, instance in enumerate(task.instances, start=1):
        if instance.request_type == "loglikelihood" and not instance.args[1]:
            raise ConfigError(f"{where}: document {instance.doc_id + 1} has an empty answer (request {number})")
    if by := (config.metadata or {}).get("by"):
        for number, document in task.doc_iterator(limit=limit):
            if by not in document:
                raise ConfigError(f"{where}: document {number + 1} has no field {brief(by)}, which metadata.by names")
    if task.OUTPUT_TYPE == "multiple_choice":
        for number, document in task.doc_iterator(limit=limit):
            if not golds(task, document):
                raise ConfigError(f"{where}: document {number + 1} has no answer among its choices")
