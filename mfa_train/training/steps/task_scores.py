"""Scores on tasks while a run goes on (evaluation.every_steps): by the live model, on all ranks, like the held-out
loss. Nothing that the next step depends on is touched."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mfa_train.checkpoints.weights import FINAL
from mfa_train.config import Config
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.evaluation import scores as files
from mfa_train.evaluation.scores import TaskScores
from mfa_train.tracking.terminal import say_aside
from mfa_train.training.processes.ranks import Ranks

if TYPE_CHECKING:
    from lm_eval.api.task import Task


class TaskScorer:
    """Scores the model of the run in `folder` on `tasks`."""

    def __init__(
        self,
        config: Config,
        tasks: Mapping[str, "Task"],
        tokenizer: Tokenizer,
        folder: Path,
        ranks: Ranks,
        commit: str | None,
    ):
        """`commit`: of the code, which stands in the scores."""
        self.config, self.tasks, self.tokenizer, self.folder, self.ranks = config, tasks, tokenizer, folder, ranks
        self.commit = commit
        self.on_pass: Callable[[], None] = lambda: None
        """Called after every pass."""

    def due(self, done: int) -> bool:
        """Whether the tasks are scored after step `done`."""
        every, last = self.config.evaluation.every_steps, self.config.training.total_steps
        return every is not None and (done % every == 0 or done == last)

    def __call__(self, engine, done: int, tokens: int) -> dict[str, float]:
        """Metrics of the model after step `done`, `tokens` trained: eval/TASK/METRIC. Rank 0 leaves the scores in
        evaluations/ too."""
        from mfa_train.evaluation.evaluate import State, evaluate
        from mfa_train.evaluation.lm import RunLM

        settings, training = self.config.evaluation, self.config.training
        lm = RunLM(
            engine,
            self.tokenizer,
            self.ranks,
            context=training.stage_of(done - 1).sequence_length,
            batch_tokens=settings.batch_tokens,
            on_pass=self.on_pass,
        )
        state = State(FINAL if done == training.total_steps else f"step-{done}", done, tokens)
        metrics: dict[str, float] = {}
        engine.eval()
        for scores in evaluate(lm, self.tasks, state, settings.limit, self.commit):
            metrics |= metrics_of(scores)
            if self.ranks.is_rank_zero:
                self._write(scores)
            self.on_pass()
        engine.train()
        return metrics

    def final(self) -> list[TaskScores]:
        """Of the last step, as an earlier start may have left them."""
        asked = (self.config.training.total_steps, self.config.evaluation.limit)
        left = files.read(self.folder, say_aside)
        return [one for one in left if (one.step, one.limit) == asked and one.task in self.tasks and not one.averaged]

    def _write(self, scores: TaskScores) -> None:
        try:
            files.write(self.folder, scores)
        except OSError as error:
            say_aside(f"warning: {self.folder / files.FOLDER} cannot be written ({error.strerror})")


def metrics_of(scores: TaskScores) -> dict[str, float]:
    """As a record and W&B have them; of a task that is told by a field, each of its values' beside."""
    whole = {f"eval/{scores.task}/{name}": metric.value for name, metric in scores.metrics.items()}
    return whole | {
        f"eval/{scores.task}/{name}/{part}": value
        for part, means in scores.parts().items()
        for name, value in means.items()
    }
