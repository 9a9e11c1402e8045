"""Whether the losses of runs are numbers on one scale.

Those of different held-out texts are not, and are refused; those of different tokenizers are per byte of text.
"""

from collections import Counter, defaultdict

from mfa_train.errors import DataError
from mfa_train.scaling.study.runs import Run

CORPUS = (
    "data.name",
    "data.source",
    "data.dataset",
    "data.dataset_config",
    "data.dataset_split",
    "data.held_out_fraction",
)
"""What tells corpora of different tokenizers apart; of one tokenizer it is a fingerprint of the tokens."""


def require_comparable(used: list[Run], per_byte: bool) -> list[str]:
    """What must be said of losses that are `per_byte` because of different tokenizers. Raises DataError for losses that
    are not comparable."""
    notices = []
    example = {run.evaluated_on.tokenizer: run.name for run in used if run.evaluated_on}
    if len(example) > 1:
        if not per_byte:
            tokenizers = Counter(run.evaluated_on.tokenizer for run in used if run.evaluated_on)
            several = "; ".join(
                f"{count} × {name[:12]}, as of {example[name]}" for name, count in tokenizers.most_common(3)
            )
            raise DataError(
                f"the runs have {len(tokenizers)} tokenizers ({several}), and losses per token of different tokens "
                "are not comparable: type --per-byte to compare bits per byte, or name runs of one tokenizer"
            )
        notices = _across_tokenizers(used)
    texts: dict[str, set[str]] = defaultdict(set)
    for run in used:
        if run.evaluated_on and run.evaluated_on.text:
            texts[run.evaluated_on.tokenizer].add(run.evaluated_on.text)
    if any(len(held_out) > 1 for held_out in texts.values()):
        raise DataError(
            "the runs were evaluated on different held-out texts (summary.json: data.held_out_sha256 differs): "
            "name runs of one prepared corpus"
        )
    return notices


def _across_tokenizers(used: list[Run]) -> list[str]:
    """What must be said of bits per byte. Raises DataError where the runs' configs name different corpora."""
    notices = [
        "the runs have different tokenizers: losses are bits per byte; D counts each run's own tokens, "
        "so tokens and pairs are not comparable across tokenizers, FLOPs are"
    ]
    for key in CORPUS:
        if len(values := sorted({str(run.config[key]) for run in used if key in run.config})) > 1:
            raise DataError(
                f"the runs were evaluated on different held-out texts ({key} is {', '.join(values)}): name runs "
                "of one corpus"
            )
    if any(run.evaluated_on.sequences for run in used if run.evaluated_on):
        notices.append(
            "a number of sequences is another stretch of text with another tokenizer: train with "
            "training.eval_sequences=0 to evaluate on all of the held-out text"
        )
    if len({str(run.config.get("data.files")) for run in used if run.config}) > 1:
        notices.append("data.files differ between the runs: that they are one text is taken on trust")
    return notices
