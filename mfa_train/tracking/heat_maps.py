"""How busy each expert was, as W&B draws it: one histogram a layer and record, which W&B lays side by side over the
tokens. A bin is an expert, its height the percent of the layer's mean that it was given."""

LOADS = "experts/load"
MOST_BINS = 512
"""W&B's own limit: of more experts neighbours share one."""


def with_heat_maps(record: dict) -> dict:
    """The record, with a histogram in place of each layer's loads."""
    if LOADS not in record:
        return record
    import wandb

    by_layer = {
        f"{LOADS}/layer_{number}": wandb.Histogram(np_histogram=(bins := _bins(loads), list(range(len(bins) + 1))))
        for number, loads in record[LOADS].items()
    }
    return {key: value for key, value in record.items() if key != LOADS} | by_layer


def _bins(loads: list[int]) -> list[float]:
    """The mean of as many neighbours as leave MOST_BINS at most."""
    together = -(-len(loads) // MOST_BINS)
    groups = [loads[start : start + together] for start in range(0, len(loads), together)]
    return [sum(group) / len(group) for group in groups]
