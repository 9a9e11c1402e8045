"""Whether a run's loss is the function of its config that it claims to be, by all that its files say.

1. summary.json holds the stretches of the run (`training.resuming.stretches`), and how many steps were skipped,
   samples left out and rollbacks made.
2. Of a run of an older version, or one that went on from such a checkpoint, starts.jsonl holds what had changed at each
   start.
3. Whatever these say, the learning rates in metrics.jsonl are those of the config's schedule, or the run isn't it.
"""

import json
from collections.abc import Mapping
from typing import Any

from mfa_train.archive import AnyPath
from mfa_train.config.yaml_file import read_value
from mfa_train.scaling.study.curve import Curve
from mfa_train.scaling.study.plain_files import shown
from mfa_train.tracking.records import number
from mfa_train.training.resuming.stretches import HARMLESS, RATE, continued, spliced

STARTS, SET_ASIDE = "starts.jsonl", "starts.jsonl.damaged"
LARGEST_BYTES = 2**24
COUNTED = ("rollbacks", "samples left out", "steps skipped")


def why_not_its_config(folder: AnyPath, config: Mapping[str, Any], summary: dict, curve: Curve) -> str | None:
    """In one line, as it is told of a run that is left out; None where nothing says so. Raises ValueError for a history
    that is none."""
    counted = (
        summary.get("rollbacks"),
        summary.get("left_out_samples"),
        summary.get("skipped_steps", curve.last.get("skipped_steps")),
    )
    if left := [f"{found:g} {what}" for what, value in zip(COUNTED, counted) if (found := number(value)) and found > 0]:
        return f"its loss is not its config's alone: {', '.join(left)}"
    stretches = _stretches(summary)
    why = stretches and spliced(stretches)
    if not why and (not stretches or stretches[0]["from_step"] > 0):
        why = _by_starts(folder, config, unknown_to=stretches[0]["from_step"] if stretches else 0)
    if not why and curve.off_rate is not None:
        off = curve.off_rate
        why = f"step {off['step']} had a learning rate of {off['lr']:.6g}, by config.yaml it has {off['expected']:.6g}"
    return f"its loss is not that of its config: {shown(why, 400)}" if why else None


def steps_of(config: Mapping[str, Any]) -> int | None:
    """All steps that a flat config means."""
    steps, tokens = number(config.get("training.steps")), number(config.get("training.tokens"))
    a_step = (number(config.get("training.batch_size")) or 0) * (number(config.get("training.sequence_length")) or 0)
    return int(steps) if steps else int(-(-tokens // a_step)) if tokens and a_step else None


def _stretches(summary: dict) -> list[dict]:
    """Those that summary.json lists; none of an older version's. Raises ValueError for a list that is none."""
    found = summary.get("stretches")
    if found is None:
        return []
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and _is_step(one.get("from_step")) for one in found
    ):
        raise ValueError("summary.json: stretches is no list of objects with from_step")
    steps = [one["from_step"] for one in found]
    if steps != sorted(set(steps)):
        raise ValueError("summary.json: the steps that stretches begin after don't rise")
    return found


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**15


def _by_starts(folder: AnyPath, config: Mapping[str, Any], unknown_to: int) -> str | None:
    """Why the stretches that starts.jsonl tells of make another run than the config's; None where they don't. They are
    found backwards from the config, by what had changed at each start; one from an earlier step takes the place of
    those behind it. Of the steps up to `unknown_to` nothing else tells with what they were trained. Raises ValueError
    for a file too large to be one."""
    path = folder / STARTS
    unknown = (
        f"with what steps 1 to {unknown_to} were trained is not known: no line of {STARTS} tells of them"
        if unknown_to
        else None
    )
    if not path.is_file():
        return unknown
    if (folder / SET_ASIDE).exists():
        return f"a line of {STARTS} was damaged, so what had changed at that start is not known"
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise ValueError(f"{STARTS}: {size:,} bytes, expected at most {LARGEST_BYTES:,}")
    changes: list[tuple[int, dict[str, Any]]] = []
    for line in path.read_bytes().decode("utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            step, changed = record["from_step"], [_change(said) for said in record["changed"]]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            if line.strip():
                return f"a line of {STARTS} is damaged, so what had changed at that start is not known"
            continue
        if _is_step(step):
            unknown = None if step == 0 else unknown
            changes = [one for one in changes if one[0] < step]
            if before := dict(filter(None, changed)):
                changes.append((step, before))
    return unknown or spliced(_stretches_between(changes, config))


def _stretches_between(changes: list[tuple[int, dict[str, Any]]], config: Mapping[str, Any]) -> list[dict]:
    """The stretches of a run that ended with `config`: at each of the steps, which rise, the given settings had been
    others before."""
    settings = {key: config.get(key) for key in {*RATE, *(key for _, before in changes for key in before)}}
    settings["training.steps"] = steps_of(config)
    made: list[tuple[int, dict[str, Any]]] = []
    for step, before in reversed(changes):
        made.append((step, settings))
        settings = settings | before
        if before.keys() & {"training.steps", "training.tokens"}:
            settings["training.steps"] = steps_of({**config, **settings, "training.steps": None, **before})
    stretches = continued([], 0, settings)
    for step, since in reversed(made):
        stretches = continued(stretches, step, since)
    for one in stretches:
        one.pop("training.tokens", None)
    return stretches


def _change(said: str) -> tuple[str, Any] | None:
    """(key, what it was) of `key: old -> new`; None where it changes no number, or one of the two did not know the
    key."""
    key, _, values = said.partition(": ")
    old, _, new = values.partition(" -> ")
    if key.startswith(HARMLESS) or ("None" in (old, new) and key not in ("training.steps", "training.tokens")):
        return None
    return key, None if old == "None" else read_value(old)
