"""What an export takes: peak memory above what its process had, and seconds, from a checkpoint that several ranks
wrote, into few files and into many, each export in a fresh process. The last line is JSON.

    python benchmarks/exporting.py model=350m
    python benchmarks/exporting.py model=1b attention=mla --ranks 16 --shard-bytes 500MB 5GB

The checkpoint is made up: random masters, cut over the ranks as ZeRO cuts them, and moments that take no room on the
disk (holes of the file), as no export reads them.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from safetensors import safe_open

from mfa_train import config as configs
from mfa_train.checkpoints.folders import folder_of
from mfa_train.checkpoints.manifest import stretches_of, write_manifest
from mfa_train.checkpoints.streamed import memory_of
from mfa_train.checkpoints.tensor_files import KINDS, RNG
from mfa_train.checkpoints.tokenizer import keep_tokenizer
from mfa_train.checkpoints.weights import shapes_of
from mfa_train.config import Config
from mfa_train.config.quantities import bytes_of
from mfa_train.data.tokenizer import Tokenizer, open_tokenizer, train_sentencepiece
from mfa_train.export.export import export

STEP = 8
AT_ONCE = 2**22
"""Random values made at a time."""


def made_up(run: Path, config: Config, tokenizer: Tokenizer, ranks: int) -> None:
    """The folder of a run of `config` with one checkpoint, of step STEP."""
    checkpoint = folder_of(run / "checkpoints", STEP)
    checkpoint.mkdir(parents=True)
    (run / "config.yaml").write_text(configs.to_yaml(config))
    keep_tokenizer(tokenizer, run / "checkpoints")
    sizes = {name: math.prod(shape) for name, shape in shapes_of(config).items()}
    files: list[dict] = []
    held: list[dict] = []
    for rank in range(ranks):
        path = checkpoint / f"rank-{rank:05d}.safetensors"
        parts = list(pieces(sizes, rank, ranks))
        write_rank(path, parts, torch.Generator().manual_seed(rank))
        held.append({name: [(start, start + length)] for name, start, length in parts})
        files.append({"name": path.name, "bytes": path.stat().st_size, "sha256": "0" * 64})
    content = {"step": STEP, "updates": STEP, "world_size": ranks, "progress": {"step": STEP}, "guard": {}, "data": {}}
    content |= {"config": {}, "versions": {}, "wandb": None, "files": files, "stretches": stretches_of(held)}
    write_manifest(checkpoint, content)


def pieces(sizes: dict[str, int], rank: int, ranks: int) -> Iterator[tuple[str, int, int]]:
    """(parameter, start, length) of what one rank writes: an equal part of all parameters end to end."""
    share = -(-sum(sizes.values()) // ranks)
    first, place = rank * share, 0
    for name, size in sizes.items():
        begin, end = max(place, first), min(place + size, first + share)
        if begin < end:
            yield name, begin - place, end - begin
        place += size


def write_rank(path: Path, parts: list[tuple[str, int, int]], generator: torch.Generator) -> None:
    lengths = {f"{kind}:{name}:{start}": length for kind in KINDS for name, start, length in parts}
    header, end = {RNG: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}, 8
    for key, length in lengths.items():
        header[key] = {"dtype": "F32", "shape": [length], "data_offsets": [end, end + 4 * length]}
        end += 4 * length
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told + bytes(8))
        left = sum(length for _, _, length in parts)
        while left:
            values = torch.randn(min(left, AT_ONCE), generator=generator)
            file.write(memory_of(values))
            left -= len(values)
        file.truncate(8 + len(told) + end)


def peak_bytes(action: Callable[[], object]) -> int:
    """By how much `action` raised this process's resident memory at most; pages of mapped files count."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now (man 5 proc)
    before = resident("VmRSS")
    action()
    return resident("VmHWM") - before


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def measured(run: Path, dtype: str, shard_bytes: str) -> dict:
    """Of one export, which is removed again."""
    out, begin = run.parent / "out", time.perf_counter()
    limit = bytes_of("--shard-bytes", shard_bytes)
    peak = peak_bytes(lambda: export(run, out, f"step-{STEP}", dtype=dtype, shard_bytes=limit))
    seconds, files = time.perf_counter() - begin, list(out.glob("*.safetensors"))
    largest = max(file.stat().st_size for file in files)
    for file in files:
        with safe_open(file, framework="pt") as opened:  # raises where a file is none
            opened.metadata()
    shutil.rmtree(out)
    return {
        "dtype": dtype,
        "shard_bytes": shard_bytes,
        "files": len(files),
        "largest_file": largest,
        "peak_bytes": peak,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--shard-bytes", nargs="+", default=["500MB", "5GB"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, file = Path(folder) / "run", Path(folder) / "tokenizer.model"
        file.write_bytes(train_sentencepiece(Path(__file__).read_text().splitlines() * 20, 400))
        config = configs.load(["attention=mha", *arguments.overrides, f"runs_dir={folder}", "name=run"])
        made_up(run, config, open_tokenizer(file), arguments.ranks)
        masters = 4 * sum(math.prod(shape) for shape in shapes_of(config).values())
        print(f"{masters / 2**20:,.0f} MiB of masters in {arguments.ranks} files")
        rows = []
        for shard_bytes, dtype in itertools.product(arguments.shard_bytes, ("bf16", "fp32")):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                rows.append(row := process.submit(measured, run, dtype, shard_bytes).result())
            print(
                f"{dtype} in files of {shard_bytes}: {row['files']} of up to {row['largest_file'] / 2**20:,.0f} MiB, "
                f"peak {row['peak_bytes'] / 2**20:,.0f} MiB, {row['seconds']:.1f} s"
            )
    print(json.dumps({"masters_bytes": masters, "ranks": arguments.ranks, "exports": rows}))


if __name__ == "__main__":
    main()
