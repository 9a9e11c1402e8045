"""lm-eval without its talk: what a user must know is an error of ours."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and bars of lm-eval, `datasets` and the Hub's client."""
    import datasets
    import lm_eval.api.task

    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars, bar = datasets.are_progress_bars_disabled(), lm_eval.api.task.tqdm
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        datasets.disable_progress_bars()
        lm_eval.api.task.tqdm = lambda documents, **_: documents
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        if not bars:
            datasets.enable_progress_bars()
