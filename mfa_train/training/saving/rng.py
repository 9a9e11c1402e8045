"""The state of every random generator of a process, as bytes that hold no code: JSON, the generators' states as
numbers.

Nothing in training draws from them today: samples, initial weights and generated text have generators of their own.
They are saved so that a model with dropout resumes exactly, too.
"""

import json
import random

import numpy as np
import torch


def rng_state() -> torch.Tensor:
    """The state of the generators of Python, NumPy, torch and this process's GPU: uint8 (n,)."""
    legacy = np.random.get_state(legacy=False)
    state = {
        "python": random.getstate(),
        "numpy": legacy | {"state": {"key": legacy["state"]["key"].tolist(), "pos": int(legacy["state"]["pos"])}},
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": torch.cuda.get_rng_state().numpy().tobytes().hex() if torch.cuda.is_available() else None,
    }
    return torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)


def set_rng_state(saved: torch.Tensor) -> None:
    """Puts back what `rng_state` gave. Raises ValueError, TypeError, KeyError or RuntimeError for anything else."""
    state = json.loads(saved.numpy().tobytes())
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    key = np.array(state["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state(state["numpy"] | {"state": {"key": key, "pos": state["numpy"]["state"]["pos"]}})
    torch.set_rng_state(_bytes(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes(state["cuda"]))


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
