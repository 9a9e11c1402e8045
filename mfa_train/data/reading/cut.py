"""Windows of the order's length as the sequences of a stage that is shorter (`training.sequence_schedule`).

A window of L + 1 tokens becomes L / l sequences of l + 1, each beginning with the last target of the one before: every
token is an input once and a target once, as it is in the whole window, and the order of samples knows no stages.
"""

import numpy as np


def cut(windows: np.ndarray, sequence_length: int) -> np.ndarray:
    """Windows (batch, L + 1) as (batch · L / sequence_length, sequence_length + 1), those of a window one behind the
    other; themselves where that is their length."""
    if windows.shape[1] == sequence_length + 1:
        return windows
    inputs, targets = (part.reshape(-1, sequence_length) for part in (windows[:, :-1], windows[:, 1:]))
    return np.concatenate((inputs, targets[:, -1:]), axis=1)
