"""What long sequences cost each attention on devices that are not here, from the plan: nothing is trained.

    .venv/bin/python benchmarks/context_on_paper.py longest [--devices h100-80gb,…] [--context 1,2,4,8] [--out FILE]

prints the longest sequence that fits on one node of eight, where so many ranks share each sequence, and what each
device then has of the last of them, of every attention:
bf16, ZeRO 3, one sequence at a time, layers computed again, feed-forwards in tiles; by entries, or by heads where that
leaves room for more. FILE gets a JSON object a line, which docs/figures.py --context draws.

    .venv/bin/python benchmarks/context_on_paper.py exchange [--device h100-80gb] [--counts 8,128] [--lengths 32768,…]

prints what ranks receive of each other in a step where all devices share one sequence, how long that takes, how much of
it is hidden behind the query, and what share of the step is waited for.

Both take train.py's overrides behind their options; tables are Markdown.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mfa_train import config as configs
from mfa_train.attention import variants
from mfa_train.budget.context import WAYS, context_cost, context_of
from mfa_train.budget.devices import planned_device, resolve_precision
from mfa_train.budget.fit import Fit
from mfa_train.budget.longest import longest_sequence
from mfa_train.budget.match import matched
from mfa_train.budget.peak import peak_flops
from mfa_train.budget.shape import measure
from mfa_train.budget.step_time import Devices, time_of
from mfa_train.budget.units import duration, size_of
from mfa_train.config import Config
from mfa_train.doors import report
from mfa_train.errors import ConfigError

NODE = 8
SMALLEST = [
    *("model=7b", "model.vocab_size=32000", "precision=bf16", "zero=3", "training.micro_batch_size=1"),
    *("training.activation_checkpointing=full", "training.mlp_tile_tokens=4096"),
]
"""Of what can be set, what leaves most room for a sequence in a device's own memory."""
LENGTHS = (32_768, 131_072, 1_048_576)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("longest", "exchange"))
    parser.add_argument("--attention", type=_words, default=variants(), metavar="NAME[,NAME]", help="default: all")
    parser.add_argument(
        "--devices", type=_words, default=["a100-40gb", "h100-80gb", "h200-141gb", "b200-180gb"], metavar="NAME[,NAME]"
    )
    parser.add_argument("--context", type=_numbers, default=[1, 2, 4, 8], metavar="C[,C]", help="of longest")
    parser.add_argument("--out", type=Path, metavar="FILE", help="of longest: the same as JSON lines")
    parser.add_argument("--device", default="h100-80gb", metavar="NAME", help="of exchange")
    parser.add_argument("--counts", type=_numbers, default=[8, 128], metavar="N[,N]", help="of exchange: devices")
    parser.add_argument("--lengths", type=_numbers, default=LENGTHS, metavar="T[,T]", help="of exchange: tokens")
    arguments, overrides = parser.parse_known_args()
    if wrong := [word for word in overrides if word.startswith("-")]:
        parser.error(f"unknown option {wrong[0]}")
    if arguments.table == "longest":
        longest(arguments.attention, arguments.devices, arguments.context, overrides, arguments.out)
    else:
        exchange(arguments.attention, arguments.device, arguments.counts, arguments.lengths, overrides)


def longest(
    names: Sequence[str], devices: Sequence[str], contexts: Sequence[int], overrides: list[str], out: Path | None
) -> None:
    """A table for each device: tokens of the longest sequence by attention and ranks that share it. KV bytes are those
    of the whole model's cache, 16-bit values."""
    with out.open("w", encoding="utf-8") if out else contextlib.nullcontext() as file:
        for device in devices:
            print(f"\n{device}, {NODE} of them\n")
            _print_row(
                ["attention", "KV bytes per token", *(f"{count} share" for count in contexts), "per device"], head=True
            )
            for name in names:
                own = list(_cells(name, device, contexts, overrides))
                _print_row(
                    [
                        *(name, f"{own[0]['kv_bytes_per_token']:,}", *map(_tokens, own)),
                        f"{own[-1]['tokens'] // own[-1]['context']:,}",
                    ]
                )
                if file:
                    file.writelines(json.dumps(cell) + "\n" for cell in own)
                    file.flush()


def _cells(name: str, device: str, contexts: Sequence[int], overrides: list[str]) -> Iterator[dict]:
    """By entries or by heads, whichever leaves room for more."""
    for context in contexts:
        config = _config(name, device, NODE, context, overrides)
        tokens = {way: _longest(config, way) for way in (WAYS if context > 1 else WAYS[:1])}
        by = max(tokens, key=lambda way: tokens[way])
        yield {
            "device": device,
            "attention": name,
            "context": context,
            "kv_bytes_per_token": measure(config.model, config.attention).cache_bytes(config.plan.cache_dtype),
            "tokens": tokens[by],
            "by": by if context > 1 else None,
            "tokens_by": tokens,
        }


def _longest(config: Config, way: str) -> int:
    config.parallel.context_by = way
    try:
        return longest_sequence(config)
    except ConfigError:  # so many ranks don't divide the heads
        return 0


def exchange(
    names: Sequence[str], device: str, counts: Sequence[int], lengths: Sequence[int], overrides: list[str]
) -> None:
    """A table for each number of devices, which share one sequence: a block of columns for each length."""
    for count in counts:
        print(f"\n{count} × {device}, which share one sequence of a step\n")
        head = ("attention", "by", "length", "received in a step", "in a layer, forward", "takes", "beside the query")
        _print_row([*head, "waited for", "of the step", "expanding others' entries", "fits"], head=True)
        for name in names:
            for length in lengths:
                config = _config(name, device, count, count, [f"training.sequence_length={length}", *overrides])
                told, fits = _shared(config)
                seconds = (told[key] for key in ("seconds", "hidden_seconds", "waiting_seconds"))
                _print_row(
                    [
                        *(name, told["by"], f"{length // 1024}K", size_of(told["received_bytes"])),
                        *(size_of(told["received_bytes_per_layer"]), *map(duration, seconds)),
                        *(f"{told['share_of_step']:.1%}", f"{told['expansion_share']:.1%}", fits),
                    ]
                )


def _shared(config: Config) -> tuple[dict, str]:
    """`context` of the plan, and whether it fits; not asked where all scores exist, which no long sequence has room
    for."""
    count, per_node = config.cluster.world_size, config.cluster.devices_per_node
    device = planned_device(config.cluster.device, per_node)
    dtype, shape = resolve_precision(config.precision, device), measure(config.model, config.attention)
    fit = Fit(config, shape, device, dtype, count, more_ranks=False)
    devices = Devices(count, count // per_node, device, dtype, peak_flops(device, dtype), fit.kernel)
    cost = context_cost(config, shape, devices)
    assert cost is not None
    told = context_of(config, shape, cost, time_of(config, shape, devices, cost)["step_seconds"])
    return told, "-" if fit.kernel.name == "math" else "yes" if fit.fits(fit.setting) else "no"


def _config(name: str, device: str, count: int, context: int, overrides: list[str]) -> Config:
    """One sequence in a step for each group of ranks that share it."""
    config = configs.load(
        [
            f"attention={name}",
            *SMALLEST,
            f"cluster.device={device}",
            f"cluster.nodes={-(-count // NODE)}",
            f"cluster.devices_per_node={min(count, NODE)}",
            f"parallel.context={context}",
            f"training.batch_size={count // context}",
            *overrides,
        ]
    )
    return matched(config)[0]


def _tokens(cell: dict) -> str:
    return f"{cell['tokens']:,}{', heads' if cell['by'] == 'heads' else ''}"


def _print_row(row: list[str], head: bool = False) -> None:
    print(f"| {' | '.join(row)} |", flush=True)
    if head:
        print(f"| --- {'| ---: ' * (len(row) - 1)}|", flush=True)


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(report(main))
