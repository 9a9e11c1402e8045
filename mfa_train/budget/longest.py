"""The longest sequence that a model can be trained on: what the memory of a plan's devices has room for.

Memory grows with the sequence almost in a straight line, so between a length that fits and one that does not the next
to be tried is where a line through both meets the limit; the last two differ by one unit.
"""

from collections.abc import Callable
from dataclasses import replace

from mfa_train.budget.devices import planned_device, resolve_precision
from mfa_train.budget.fit import Fit
from mfa_train.budget.shape import measure
from mfa_train.config import Config
from mfa_train.config.requirements import SEQUENCE

UNIT = 1024
"""Of a rank's tokens."""
GROWTH = 4
"""Of the lengths that are tried until one is too long."""
HALVINGS = 4
"""Of the lengths that are tried, one in so many is the middle: a step of memory, as a kernel's rounding, stops no
search."""


def longest_sequence(config: Config) -> int:
    """Tokens, a multiple of 1,024 for each rank that shares a sequence, of the longest with which the run fits into its
    devices as `config` has them, whatever training.sequence_length says; 0: none. Raises ConfigError as a plan does."""
    cluster, context = config.cluster, config.parallel.context
    device = planned_device(cluster.device, cluster.devices_per_node)
    dtype = resolve_precision(config.precision, device)
    shape = measure(config.model, config.attention)

    def beyond(units: int) -> int:
        """Bytes above what is usable."""
        training = replace(config.training, sequence_length=units * UNIT * context)
        fit = Fit(replace(config, training=training), shape, device, dtype, cluster.world_size, more_ranks=False)
        return fit.total(fit.setting) - fit.usable_bytes

    return _last_within(beyond, SEQUENCE // (UNIT * context)) * UNIT * context


def _last_within(beyond: Callable[[int], int], most: int) -> int:
    """The largest number from 1 to `most` of which `beyond`, which grows, is not above 0; 0: none."""
    low, high = 1, min(GROWTH, most)
    if (at_low := beyond(low)) > 0:
        return 0
    while (at_high := beyond(high)) <= 0:
        if high == most:
            return most
        low, at_low, high = high, at_high, min(GROWTH * high, most)
    tried = 0
    while high - low > 1:
        tried += 1
        guess = low + int((high - low) * -at_low / (at_high - at_low))
        middle = (low + high) // 2
        number = middle if tried % HALVINGS == 0 else min(max(guess, low + 1), high - 1)
        if (found := beyond(number)) <= 0:
            low, at_low = number, found
        else:
            high, at_high = number, found
    return low
