"""How many seeds a verdict takes, by the rules of paired.py: before a comparison is paid for, and when one is in.
The sizes are taken not to differ (by_size.py): then what units vary by is the spread from seed to seed.

A unit is a size and seed. A difference of two variants is shown where the p of the paired t-test over units, corrected
for the number of pairs of variants, is below `SHOWN`; seeds of one study are trained at all of its sizes, so one more
seed is as many units as there are sizes. One seed alone shows nothing, at however many sizes. Corrected means times
the number of pairs here: of Holm's steps that is the first and hardest.
"""

import math

from scipy.special import nctdtr, stdtrit

SHOWN = 0.05
POWER = 0.8
"""How often as many seeds as are asked for would show a difference of that size."""
LEAST_SEEDS = 2
MOST_SEEDS = 100
"""More are called too many."""
PLAIN = 2.0
"""A difference that is plain to see: so many times what a difference varies from seed to seed."""


def pairs_of(variants: int) -> int:
    """Of variants, each with each."""
    return variants * (variants - 1) // 2


def smallest_shown(units: int, pairs: int = 1) -> float | None:
    """The least mean difference that comes out as shown, as a multiple of the standard deviation of differences between
    units; None of fewer than two."""
    return _quantile(units, pairs) / math.sqrt(units) if units > 1 else None


def power(difference: float, deviation: float, units: int, pairs: int = 1) -> float:
    """How often `units` show a true difference where differences vary between units by `deviation` (normal): by the
    noncentral t distribution, on the side of the difference alone."""
    if units < 2:
        return 0.0
    if deviation == 0:
        return float(difference != 0)
    found = 1 - nctdtr(units - 1, abs(difference) / deviation * math.sqrt(units), _quantile(units, pairs))
    return 1.0 if math.isnan(found) else float(found)  # so far off that the distribution's own sum ends


def seeds_for(difference: float, deviation: float, sizes: int, pairs: int = 1, most: int = MOST_SEEDS) -> int | None:
    """The fewest seeds, trained at each of `sizes`, that show such a difference four times in five; None where more
    than `most` are needed."""
    few, many = LEAST_SEEDS - 1, most + 1  # too few, enough or too many
    while many - few > 1:
        seeds = (few + many) // 2
        few, many = (few, seeds) if power(difference, deviation, seeds * sizes, pairs) >= POWER else (seeds, many)
    return many if many <= most else None


def told_before(variants: int, sizes: int, seeds: int) -> list[str]:
    """What a comparison of so many can bring, in sentences, before it is trained: whether there will be a verdict, how
    large a difference must be to get one, and how many seeds make that small. Empty of one variant."""
    if variants < 2:
        return []
    pairs = pairs_of(variants)
    enough = seeds_for(PLAIN, 1.0, sizes, pairs)
    advice = (
        f"{enough} seeds show a difference of {PLAIN:g} times its spread from seed to seed, four times in five"
        if enough
        else f"even {MOST_SEEDS} seeds show no difference of {PLAIN:g} times its spread"
    )
    corrected = f"{pairs} pairs of {variants} variants, for which p is corrected" if pairs > 1 else "one pair"
    if seeds < LEAST_SEEDS:
        return [
            f"one seed brings no verdict: compare calls a variant better or worse by {LEAST_SEEDS} seeds at least",
            f"{advice} ({corrected})",
        ]
    least = smallest_shown(seeds * sizes, pairs)
    told = (
        f"{seeds} seeds at {'one size' if sizes == 1 else f'{sizes} sizes'} show differences above {least:.2g} times "
        f"their spread from seed to seed ({corrected})"
    )
    return [told] if enough and seeds >= enough else [told, advice]


def _quantile(units: int, pairs: int) -> float:
    """Student's, two-sided, for p below `SHOWN` after the correction."""
    return float(stdtrit(units - 1, 1 - SHOWN / 2 / max(1, pairs)))
