"""How long another thread stands still while a rank's file is written: by safetensors, as was done, and as it is done.

    python benchmarks/standstill.py [--mebibytes 512]

safetensors below 0.8 holds the interpreter's lock for the whole of a write.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from mfa_train.checkpoints.folders import flush
from mfa_train.checkpoints.tensor_files import write_pieces
from mfa_train.data.shards.store import sha256_of


def standstill(write: Callable[[], object]) -> tuple[float, float]:
    """(the longest time without a turn of another thread, all of the time), in seconds."""
    gaps: list[float] = []
    written = threading.Event()

    def count() -> None:
        last = time.perf_counter()
        while not written.is_set():
            gaps.append((now := time.perf_counter()) - last)
            last = now
            time.sleep(0)

    counting = threading.Thread(target=count)
    counting.start()
    begun = time.perf_counter()
    write()
    seconds = time.perf_counter() - begun
    written.set()
    counting.join()
    return max(gaps), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=512)
    tensors = {"master:w:0": torch.zeros(parser.parse_args().mebibytes * 2**18)}
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)

        def by_safetensors() -> None:
            save_file(tensors, path := folder / "whole.safetensors")
            flush(path)
            sha256_of(path)

        for _ in range(3):
            for told, write in (
                (f"safetensors {safetensors.__version__}, then summed", by_safetensors),
                ("written and summed in one pass", lambda: write_pieces(folder, 0, tensors)),
            ):
                longest, seconds = standstill(write)
                print(f"{told}: {longest:.3f} s of {seconds:.2f} s")


if __name__ == "__main__":
    main()
