"""Bits per byte of the right answer: what tells small models apart where all of them choose by chance.

−log2 p(answer | prompt) / bytes of the answer, UTF-8, as it was scored: with the space that joins it to the prompt, and
what else of space stands at the prompt's end, which is scored with it.
The mean over documents is OLMo's `bpb_v2` (`ICLMetric` of ai2-olmo-eval 0.9.0; its v1 leaves the space uncounted).
"""

import math
from collections.abc import Sequence
from typing import Any


def golds(task: Any, document: dict) -> list[int]:
    """Places of the right answers among a document's choices, of a multiple_choice task of lm-eval: none where the
    label is not among them."""
    choices = task.doc_to_choice(document)
    label = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    places = [
        choices.index(gold) if gold in choices else gold for gold in (label if isinstance(label, list) else [label])
    ]
    return [place for place in places if isinstance(place, int) and 0 <= place < len(choices)]


def bits_per_byte(task: Any, samples: Sequence[dict]) -> list[float] | None:
    """Of each of a task's samples, as lm-eval logs them; None where one has not exactly one right answer that was
    scored, or one of no bytes."""
    values = []
    for sample in samples:
        if (place := _gold(task, sample)) is None:
            return None
        (prompt, answer), log_likelihood = sample["arguments"][place], sample["resps"][place][0][0]
        if not (scored := prompt[len(prompt.rstrip()) :] + answer):
            return None
        values.append(-log_likelihood / (math.log(2) * len(scored.encode())))
    return values


def _gold(task: Any, sample: dict) -> int | None:
    if task.OUTPUT_TYPE == "loglikelihood" and len(sample["arguments"]) == 1:
        return 0
    if task.OUTPUT_TYPE == "multiple_choice" and len(found := golds(task, sample["doc"])) == 1:
        return found[0]
    return None
