"""The share of a device's peak that a whole step is to reach, where it is typed or measured by a run; without either a
plan assumes what its kernels reach (`kernel`) and adds the rest (`step_time`).

A run's is the (lower) median of its last start's records, without the first step's. It is taken for devices of the same
kind alone: a CPU's says nothing of a GPU. Records whose peak was wrong (above 1) are left out; where they are many the
run is refused.
"""

import statistics
from pathlib import Path
from typing import Any

from mfa_train.budget.devices import PRECISIONS, Device
from mfa_train.budget.kernel import PRODUCTS
from mfa_train.errors import ConfigError
from mfa_train.tracking.metrics_file import FILE
from mfa_train.tracking.records import last_records, number, read_object
from mfa_train.tracking.starts import starts

RECORDS = 1000
"""The newest that are looked at."""
MANY = 0.1
"""Share of the records whose peak may have been wrong."""


def typed_or_measured(given: Any, device: Device) -> tuple[float, str] | None:
    """The share, above 0 and at most 1, and where it comes from; `given` is plan.mfu, and None where it is. Raises
    ConfigError for a run without measurements that hold for the device."""
    if given is None:
        return None
    if isinstance(given, (int, float)):
        return float(given), "plan.mfu"
    run = Path(str(given)).expanduser() if str(given).startswith("~/") else Path(str(given))
    instead = f"type plan.mfu={PRODUCTS[device.type]}, or a run folder with one, as plan.mfu=runs/mfa-nano"
    try:
        if not (run / FILE).is_file():
            raise ConfigError(f"plan.mfu={given}: no run with a {FILE} is there; {instead}")
        records, begun = last_records(run / FILE, RECORDS), starts(run)
        plan = ((run / "plan.json").is_file() and read_object(run / "plan.json")) or {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"plan.mfu={given}: cannot be read ({error}); {instead}") from None
    measured_on = _measured_on(plan)
    _require_same_kind(given, measured_on, device, instead)
    from_step = number(begun[-1].get("from_step")) or 0 if begun else 0
    of_start = [record for record in records if record["step"] > from_step]
    told = [record.get("mfu") for record in of_start if record["step"] > 1 or len(of_start) == 1]
    shares = [share for one in told if (share := number(one)) is not None and 0 < share <= 1]
    wrong = [share for one in told if (share := number(one)) is not None and share > 1]
    if len(wrong) > MANY * (len(shares) + len(wrong)):
        raise ConfigError(
            f"plan.mfu={given}: its mfu goes up to {max(wrong):.4g} and a share is at most 1: the peak of "
            f"that run's device was measured wrong; {instead}"
        )
    if not shares:
        raise ConfigError(f"plan.mfu={given}: its last start logged no mfu; {instead}")
    return statistics.median_low(shares), f"median of {run / FILE}{measured_on and f', measured on {measured_on}'}"


def _measured_on(plan: dict) -> str:
    """The device and precision that the run's plan tells; empty where it tells none."""
    memory, time = (part if isinstance(part := plan.get(key), dict) else {} for key in ("memory", "time"))
    device, precision = memory.get("device"), time.get("precision")
    if not isinstance(device, str) or not device.isprintable():
        return ""
    return f"{device} in {precision}" if precision in PRECISIONS.values() else device


def _require_same_kind(given: Any, measured_on: str, device: Device, instead: str) -> None:
    if not measured_on and device.type == "cpu":  # the cautious guess, and the smaller harm
        return
    if not measured_on:
        raise ConfigError(
            f"plan.mfu={given}: its plan.json does not say on which device it was measured, and the plan is "
            f"for {device.name}; {instead}"
        )
    if (measured_on.split(" in ")[0] == "cpu") != (device.type == "cpu"):
        raise ConfigError(
            f"plan.mfu={given}: measured on {measured_on}, and the plan is for {device.name}: the one's share "
            f"says nothing of the other's; {instead}"
        )
