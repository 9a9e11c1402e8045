"""A shuffled order that is computed, not stored: a keyed permutation, O(1) for any index.

A Feistel network over the smallest even power of two that covers the range, walked along its cycle until it falls back
into the range (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, section 3). Integer arithmetic
only, so the order is the same on every machine.
"""

import hashlib

import numpy as np

ROUNDS = 6


def permutation(indices: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """Where each of `indices` (each in range(n)) falls in the shuffled range(n) of (seed, epoch); int64."""
    if n == 1:
        return np.zeros(len(indices), dtype=np.int64)
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    keys = np.frombuffer(hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8 * ROUNDS).digest(), "<u8")
    values = _feistel(np.asarray(indices).astype(np.uint64), half, keys)
    while (outside := values >= n).any():
        values[outside] = _feistel(values[outside], half, keys)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    """A permutation of range(2 ** (2·half)), uint64 to uint64."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return left << shift | right


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: every bit of x reaches every bit of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
