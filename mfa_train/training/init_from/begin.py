"""A new run's engine with the weights of its source, and the held-out loss with them."""

import math

from mfa_train.checkpoints.folders import newest_first
from mfa_train.config import RESUME, Config
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import DataError
from mfa_train.tracking import by_position
from mfa_train.training.init_from.same_model import require_same_model
from mfa_train.training.init_from.same_tokenizer import require_same_tokenizer
from mfa_train.training.init_from.source import Source, open_source
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.steps.evaluation import Evaluator
from mfa_train.training.steps.state import TrainingState


def begins_anew(config: Config) -> bool:
    """Whether a run has no checkpoint to go on from, and so begins with what init_from names."""
    return config.resume == "never" or (config.resume in RESUME and not newest_first(config.run_dir / "checkpoints"))


def require_source(config: Config, tokenizer: Tokenizer | None = None) -> None:
    """Raises UserError where the run would be refused for what init_from names; by the corpus's `tokenizer` too, where
    it is known."""
    if config.init_from is not None and begins_anew(config):
        source = open_source(config.init_from, config)
        require_same_model(source)
        if tokenizer:
            require_same_tokenizer(source, tokenizer)


def source_to_begin_with(config: Config, ranks: Ranks) -> Source | None:
    """The source, of which rank 0 tells; None where none is to be read. Raises UserError where there is none such, or
    the config's model is another than its."""
    if config.init_from is None or not ranks.on_rank_zero(lambda: begins_anew(config)):
        return None
    source = open_source(config.init_from, config)
    for line in require_same_model(source):
        ranks.say(f"init_from: {line}")
    return source


def loss_to_begin_with(engine, evaluate: Evaluator, state: TrainingState, ranks: Ranks) -> None:
    """Tells the held-out loss before the first step, and keeps it with the record of the source. A loss much above
    the source's own says that something is not as it was there; where a first stage is shorter its length is told too.
    Raises DataError where it is not finite."""
    metrics = evaluate(engine)
    loss = metrics["val/loss"]
    if not math.isfinite(loss):
        source = (state.init_from or {}).get("source")
        raise DataError(
            f"init_from={source}: the held-out loss with its weights is {loss}: they are damaged, or have diverged; "
            "type init_from=PLACE with others, and resume=never"
        )
    shorter = (length := evaluate.sequence_length) != evaluate.held_out.sequence_length
    lengths, told = ({"sequence_length": length}, f" (sequences of {length:,} tokens)") if shorter else ({}, "")
    state.init_from = (state.init_from or {}) | {"val_loss": loss} | lengths | by_position.told(metrics)
    ranks.say(f"init_from: held-out loss before the first step {loss:.4f}{told}")
