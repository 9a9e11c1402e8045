"""Tasks through a model: lm-eval asks, and its answers become scores.

Nothing of the process is changed by it: the random generators are as before, and lm-eval's talk and its bars are kept
from the terminal. What it draws itself (examples before a question) it draws from a fixed seed, so equal models get
equal scores.
"""

import contextlib
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from lm_eval import evaluator
from lm_eval.api.task import Task

from mfa_train.errors import ConfigError
from mfa_train.evaluation.continued import Continuation
from mfa_train.evaluation.lm import RunLM
from mfa_train.evaluation.quiet import quiet
from mfa_train.evaluation.scores import TaskScores, scores_of

SEED = 1234
"""lm-eval's own, of the examples before a question."""


@dataclass(frozen=True)
class State:
    """Of a run."""

    checkpoint: str
    """final, or step-N; final-ema, or step-N-ema."""
    step: int
    tokens: int
    """Trained on until then."""


def evaluate(
    lm: RunLM, tasks: Mapping[str, Task], state: State, limit: int | None, commit: str | None
) -> Iterator[TaskScores]:
    """The scores of each of `tasks`, one after the other; with a `limit` of their first documents. `commit`: of the
    code, which stands in them. Raises ConfigError where the model reads too few tokens for what one asks."""
    require_room(tasks, lm.context)
    for name, task in tasks.items():
        lm.truncated, begun = 0, time.perf_counter()
        with _undisturbed():
            task.set_fewshot_seed(seed=SEED)
            # Its bootstraps fork processes, and are left out: a mean's standard error needs none.
            outcome = evaluator.evaluate(
                lm=lm, task_dict={"tasks": {name: task}, "groups": {}}, limit=limit, bootstrap_iters=0
            )
            scores = scores_of(
                task,
                outcome,
                checkpoint=state.checkpoint,
                step=state.step,
                tokens=state.tokens,
                limit=limit,
                truncated=lm.truncated,
                seconds=time.perf_counter() - begun,
                commit=commit,
            )
        yield scores


def require_room(tasks: Mapping[str, Task], context: int) -> None:
    """Raises ConfigError for a task that generates more tokens than a model of this context has room for."""
    for name, task in tasks.items():
        if task.OUTPUT_TYPE == "generate_until":
            try:
                Continuation.asked(task.config.generation_kwargs or {}, context)
            except ConfigError as error:
                raise ConfigError(f"evaluation.tasks: {name}: {error}") from None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """What is inside is quiet, draws the same each time, and leaves the generators and the compiler as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with quiet(), torch.random.fork_rng(devices), _uncompiled():
            random.seed(SEED)
            np.random.seed(SEED)
            torch.manual_seed(SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _uncompiled() -> contextlib.AbstractContextManager:
    """Passes have many shapes, for each of which a compiled model would be compiled again. Nothing is, where the
    compiler has not been imported, which takes seconds."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
