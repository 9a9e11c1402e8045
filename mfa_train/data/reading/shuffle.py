"""Shuffled orders that are computed, not stored: keyed permutations, O(1) for any index.

A Feistel network over the smallest even power of two that covers the range, walked along its cycle until it falls back
into the range (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, section 3). Integer arithmetic
only, so the order is the same on every machine.
"""

import hashlib

import numpy as np

ROUNDS = 6
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / the golden ratio: splitmix64's increment."""


class Shuffle:
    """The permutations of one purpose under one seed. Purposes that are named differently share nothing."""

    def __init__(self, seed: int, purpose: str):
        digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
        self.key = np.frombuffer(digest, "<u8")

    def __call__(self, indices: np.ndarray, sizes: np.ndarray | int, *which: np.ndarray | int) -> np.ndarray:
        """Where each of `indices` falls in a shuffled range(size), int64; `which` are whole numbers from 0 that tell
        permutations apart (an epoch, a block). Indices, sizes and `which` are broadcast against each other."""
        values, bounds, *numbers = np.broadcast_arrays(np.asarray(indices), np.asarray(sizes), *which)
        shape = values.shape
        values, bounds = values.astype(np.uint64).ravel(), bounds.astype(np.uint64).ravel()
        key = np.broadcast_to(self.key, values.shape)
        for number in numbers:
            key = _mix(key + (number.astype(np.uint64).ravel() + np.uint64(1)) * GOLDEN)
        # Half the bits of each range, at least one: frexp's exponent is the bit length.
        half = np.maximum(1, (np.frexp((bounds - np.uint64(1)).astype(np.float64))[1] + 1) // 2).astype(np.uint64)
        out = _feistel(values, half, key)
        while (outside := np.flatnonzero(out >= bounds)).size:
            out[outside] = _feistel(out[outside], half[outside], key[outside])
        return out.astype(np.int64).reshape(shape)


def _feistel(values: np.ndarray, half: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Permutations of range(2 ** (2·half)), uint64 to uint64."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for _ in range(ROUNDS):
        key = key + GOLDEN
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return left << half | right


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: every bit of x reaches every bit of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
