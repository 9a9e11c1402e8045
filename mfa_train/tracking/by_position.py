"""Where the held-out loss by position in the window stands: in a record a metric for each bin of positions, named by
the last in it, and in a summary all of them together."""

NAME = "val/loss_by_position/"
"""Of the metrics, the bin's last position behind it."""
TOLD = "val_loss_by_position"
"""In summary.json, and beside a source's `val_loss`: {last position: loss}."""


def told(record: dict) -> dict[str, dict[str, float]]:
    """What a summary holds of the metrics in `record`; nothing where they are not told by position."""
    found = {key.removeprefix(NAME): value for key, value in record.items() if key.startswith(NAME)}
    return {TOLD: found} if found else {}
