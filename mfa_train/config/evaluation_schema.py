"""The part of the schema that is about scores on tasks, of `mfa-train evaluate` and of a run on its way, and about
what a run's held-out loss is told by."""

from dataclasses import dataclass

from mfa_train.config.requirements import require_positive, require_printable, require_whole
from mfa_train.errors import ConfigError

MOST_TASKS, MOST_DOCUMENTS, MOST_SHOTS, MOST_TOKENS = 2**12, 2**40, 2**12, 2**26


@dataclass
class EvaluationConfig:
    """Which tasks a model is scored on, and how (see `mfa_train.evaluation`); what else its held-out loss is told
    by."""

    tasks: list[str]
    """Names: of files in tasks_dir, or lm-eval's own."""
    tasks_dir: str
    """Folder of yaml tasks."""
    num_fewshot: int | None
    """Examples before each question; null: each task's own number."""
    limit: int | None
    """Documents of a task, its first; null: all."""
    every_steps: int | None
    """In a run: scored after steps that are multiples of this, and after the last; null: not."""
    batch_tokens: int
    """In one pass of one rank, padding included."""
    by_position: bool
    """Whether a run's held-out evaluations tell the loss by position in the window too."""

    def __post_init__(self):
        require_whole("the number of evaluation.tasks", len(self.tasks), 0, MOST_TASKS)
        for name in self.tasks:
            require_printable("evaluation.tasks", name)
            if not name.strip():
                raise ConfigError("evaluation.tasks: expected names of tasks, as evaluation.tasks=[hellaswag,piqa]")
        if again := sorted({name for name in self.tasks if self.tasks.count(name) > 1}):
            raise ConfigError(f"evaluation.tasks: {again[0]} is there twice: type each task once")
        if self.num_fewshot is not None:
            require_whole("evaluation.num_fewshot", self.num_fewshot, 0, MOST_SHOTS)
        if self.limit is not None:
            require_positive("evaluation.limit", self.limit, MOST_DOCUMENTS)
        require_positive("evaluation.batch_tokens", self.batch_tokens, MOST_TOKENS)
        if self.every_steps is not None:
            require_positive("evaluation.every_steps", self.every_steps)
            if not self.tasks:
                raise ConfigError(
                    f"evaluation.every_steps={self.every_steps} without a task to score: type "
                    "evaluation.tasks=[NAME,…] as well"
                )
