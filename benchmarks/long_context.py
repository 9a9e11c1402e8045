"""What sharing a sequence costs and saves (parallel.context): the share of a step that goes into the exchange, for each
attention, and a rank's memory against the sequence's length.

    .venv/bin/python benchmarks/long_context.py [--only time|memory] [--steps 4] [--out results.jsonl]

Real ranks on this machine, gloo between them, which part its cores; the embedded corpus, float32, one sequence a step.
About eight minutes on two cores with nothing beside.

time: `model=nano`, 2,048 tokens, C = 2 and 4, by entries, and by heads where they divide. Steps take turns with steps
in which a rank takes its own part for those of all others and nothing is sent: how much longer a step is with the
exchange, as a share of it (median of pairs), is what the exchange costs, whatever it hides behind. Beside it the share
of a step that a rank stands waiting for it, and the bytes that a rank receives. With more ranks than cores a rank waits
for the others' turns too.

memory: `model=tiny`, the most that a rank's allocator has handed out at once in a pass forward and backward, beyond
what was there before, of the fullest rank, as tests/budget/real_memory.py asks for it too.

With --out each measurement is a line of that file, and those in it are not made again. The last line is JSON.
"""

import argparse
import contextlib
import inspect
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ("mha", "gqa", "gta", "tpa", "mla", "gla", "mlra", "mfa", "mqa", "mfa_kr", "fpba", "deepseek_v4")
TIMED_TOKENS, TIMED_RANKS = 2048, (2, 4)
BY_HEADS = (("mha", "heads", 2), ("gqa", "heads", 2))
"""Of nano's heads two ranks alone have an equal share."""
HELD_TOKENS, HELD_RANKS, HELD_VARIANTS = (1536, 3072, 6144), (1, 2, 4), ("mha", "mfa")
PATIENCE_SECONDS = 600
COMMON = [
    *("precision=fp32", "training.batch_size=1", "training.steps=1000000", "schedule.warmup_steps=1"),
    *("optimizer.lr=1e-6", "tracking.wandb=disabled", "training.eval_sequences=1"),
]
"""So small a rate leaves the weights of steps that nothing was sent in as they are."""
COLLECTIVES = ("all_gather_single", "reduce_scatter_single", "all_to_all_single")
"""Of torch.distributed, those that a sequence is exchanged with: (what they fill, what they send, …)."""


class Exchanges:
    """Times and counts the collectives of one group of ranks, or does without them."""

    def __init__(self, handle: Any, rank: int, size: int):
        self.handle, self.rank, self.size = handle, rank, size
        self.sending = True
        self.clear()

    def clear(self) -> None:
        self.seconds, self.received = 0.0, 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        import torch.distributed as dist

        before = {name: getattr(dist, name) for name in COLLECTIVES}
        for name, collective in before.items():
            setattr(dist, name, self._instead_of(name, collective))
        try:
            yield
        finally:
            for name, collective in before.items():
                setattr(dist, name, collective)

    def _instead_of(self, name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
        order = inspect.signature(collective)

        def exchange(*given: Any, **named: Any) -> Any:
            arguments = order.bind(*given, **named).arguments
            if arguments.get("group") is not self.handle:
                return collective(*given, **named)
            into, sent = list(arguments.values())[:2]
            work: Any = None
            with self._timed():
                if self.sending:
                    self.received += max(into.nbytes, sent.nbytes) * (self.size - 1) // self.size
                    work = collective(*given, **named)
                else:
                    _copied(name, into, sent, self.rank, self.size)
            return _Waited(work, self._timed) if arguments.get("async_op") else None

        return exchange

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


class _Waited:
    """Work whose waiting is timed."""

    def __init__(self, work: Any, timed: Callable[[], contextlib.AbstractContextManager[None]]):
        self.work, self.timed = work, timed

    def wait(self) -> None:
        with self.timed():
            if self.work is not None:
                self.work.wait()


def _copied(name: str, into: Any, sent: Any, rank: int, size: int) -> None:
    """As much is written as the collective would, of what this rank has."""
    if name == "all_gather_single":
        into.view(size, -1).copy_(sent.reshape(1, -1).expand(size, -1))
    elif name == "reduce_scatter_single":
        into.view(-1).copy_(sent.reshape(size, -1)[rank])
    else:
        into.view(-1).copy_(sent.reshape(-1))


def trained(ranks: Any, overrides: list[str]) -> tuple[Any, Any]:
    """The engine of a run of `overrides`, and what takes its steps; `inputs_of` has the group that shares sequences."""
    import torch

    from mfa_train import config as configs
    from mfa_train.training.processes.groups import join_context_group
    from mfa_train.training.run_data import open_run_data
    from mfa_train.training.steps.engine import build_engine
    from mfa_train.training.steps.guard import Guard
    from mfa_train.training.steps.state import Progress, TrainingState
    from mfa_train.training.steps.step import TrainingStep

    config = configs.load(overrides)
    data = open_run_data(config, ranks, join_context_group(config.parallel.context, ranks))
    engine = build_engine(config, ranks, torch.float32)
    state = TrainingState(Progress(), Guard(config.guard, print))
    return engine, TrainingStep(engine, config, ranks, data.batches, data.inputs_of, state)


def timed(ranks: Any, attention: str, way: str, steps: int, overrides: list[str]) -> dict[str, float]:
    """Of steps with the exchange and without, in turns: seconds (medians), what the exchange takes of a step by their
    difference and by the clock, and the bytes that a rank receives in one."""
    import torch

    size = ranks.world_size
    shared = [f"parallel.context={size}", f"parallel.context_by={way}"]
    _, step = trained(ranks, [*overrides, "model=nano", f"attention={attention}", *shared])
    group = step.inputs_of.sequences
    exchanges = Exchanges(group.handle, group.rank, group.size)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    waited, received = [], 0
    with exchanges.watched():
        for number in range(-1, steps):
            for exchanges.sending in (True, False):
                exchanges.clear()
                ranks.meet()
                start = time.perf_counter()
                step.take()
                taken = time.perf_counter() - start
                of_ranks = ranks.gather(torch.tensor([taken, exchanges.seconds], dtype=torch.float64))
                if number < 0:
                    continue
                longest = float(of_ranks[:, 0].max())
                seconds[exchanges.sending].append(longest)
                if exchanges.sending:
                    waited.append(float(of_ranks[:, 1].mean()) / longest)
                    received = exchanges.received
    return {
        "step_seconds": statistics.median(seconds[True]),
        "without_seconds": statistics.median(seconds[False]),
        "share": statistics.median(1 - alone / both for both, alone in zip(seconds[True], seconds[False])),
        "waited_share": statistics.median(waited),
        "received_bytes": received,
    }


def held(ranks: Any, attention: str, tokens: list[int], overrides: list[str]) -> dict[str, float]:
    """By sequence length the most bytes that a pass has at once, of the fullest rank."""
    from torch.profiler import ProfilerActivity, profile

    found = {}
    for length in tokens:
        engine, step = trained(
            ranks,
            [
                *overrides,
                *("model=tiny", f"attention={attention}", "zero=0"),
                *(f"parallel.context={ranks.world_size}", "parallel.context_by=entries"),
                f"training.sequence_length={length}",
            ],
        )
        recorded, update = profile(activities=[ProfilerActivity.CPU], profile_memory=True), engine.step

        def without_the_update(update: Callable[[], None] = update, recorded: Any = recorded) -> None:
            recorded.stop()
            update()

        engine.step = without_the_update
        recorded.start()
        step.take()
        found[str(length)] = ranks.largest(allocated_peak(recorded))
        del engine, step
    return found


def allocated_peak(recorded: Any) -> int:
    """Bytes that were alive at once at most, of those that a profiler saw allocated meanwhile."""
    alive = peak = 0
    allocations = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(allocations, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def look(
    rank: int, size: int, port: int, figures: Callable[..., dict[str, float]], arguments: tuple, pipe: Any
) -> None:
    """One rank of `figures`, of which the first tells what comes."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import torch

    from mfa_train.training.processes.ranks import join

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // size))
    found = figures(join(), *arguments)
    if rank == 0:
        pipe.send(found)
    os._exit(0)  # without DeepSpeed's farewells


def of_ranks(size: int, figures: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float] | str:
    """What `figures` finds with so many ranks, or why it does not."""
    context = multiprocessing.get_context("fork")  # of what is imported here
    ours, theirs = context.Pipe(duplex=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        context.Process(target=look, args=(rank, size, port, figures, arguments, theirs)) for rank in range(size)
    ]
    for process in started:
        process.start()
    theirs.close()
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while not ours.poll(1.0):
            if failed := [process.exitcode for process in started if process.exitcode]:
                return f"a rank ended with {failed[0]}"
            if time.monotonic() > deadline:
                return f"no answer for {PATIENCE_SECONDS} seconds"
        return ours.recv()
    except EOFError:
        return "every rank ended without an answer"
    finally:
        for process in started:
            process.terminate()
            process.join(10)
            process.kill()


class Results:
    """What was measured, by name: a line each of `file`, where there is one."""

    def __init__(self, file: Path | None):
        self.file = file
        lines = file.read_text().splitlines() if file and file.exists() else []
        self.found: dict[str, Any] = {name: figures for line in lines for name, figures in json.loads(line).items()}

    def of(self, name: str, size: int, *measure: Any) -> dict[str, float] | None:
        """Measured by `of_ranks` where it is not there; None, and told, where that fails."""
        if name not in self.found:
            figures = of_ranks(size, *measure)
            if isinstance(figures, str):
                print(f"{name}: {figures}")
                return None
            self.found[name] = figures
            if self.file:
                with self.file.open("a") as file:
                    file.write(json.dumps({name: figures}) + "\n")
        return self.found[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("time", "memory"))
    parser.add_argument("--steps", type=int, default=4, help="pairs of steps, behind one that warms up")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, metavar="ATTENTION")
    parser.add_argument("--tokens", nargs="+", type=int, default=HELD_TOKENS, help="lengths whose memory is measured")
    parser.add_argument("--data-dir", default=str(ROOT / "data"), help="where the embedded corpus is, or is prepared")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    from mfa_train.training.steps.engine import import_deepspeed

    import_deepspeed()
    results = Results(arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*COMMON, f"runs_dir={folder}", f"data_dir={arguments.data_dir}"]
        if arguments.only != "memory":
            tell_times(arguments, results, overrides)
        if arguments.only != "time":
            tell_memory(arguments, results, overrides)
    print(json.dumps(results.found))


def tell_times(arguments: argparse.Namespace, results: Results, overrides: list[str]) -> None:
    print(f"a step of {TIMED_TOKENS:,} tokens")
    print(
        f"{'':8} {'by':8} {'C':>2} {'seconds':>8} {'without':>8} {'exchange':>9} {'waiting':>8} {'received, MiB':>14}"
    )
    of_length = [*overrides, f"training.sequence_length={TIMED_TOKENS}"]
    ways = [(attention, "entries", size) for attention in arguments.variants for size in TIMED_RANKS]
    for attention, way, size in [*ways, *(one for one in BY_HEADS if one[0] in arguments.variants)]:
        found = results.of(f"time {attention} {way} {size}", size, timed, attention, way, arguments.steps, of_length)
        if found:
            print(
                f"{attention:8} {way:8} {size:2} {found['step_seconds']:8.2f} {found['without_seconds']:8.2f} "
                f"{found['share']:9.1%} {found['waited_share']:8.1%} {found['received_bytes'] / 2**20:14.2f}",
                flush=True,
            )


def tell_memory(arguments: argparse.Namespace, results: Results, overrides: list[str]) -> None:
    print(f"\n{'MiB':8} {'C':>2}" + "".join(f"{tokens:>17,}" for tokens in arguments.tokens) + "   tokens")
    for attention in (one for one in HELD_VARIANTS if one in arguments.variants):
        alone: dict[str, float] | None = None
        for size in HELD_RANKS:
            name = f"memory {attention} {size}"
            found = results.of(name, size, held, attention, list(arguments.tokens), overrides)
            if not found:
                continue
            alone = found if size == 1 else alone
            told = (
                f"{found[str(tokens)] / 2**20:9,.0f}"
                + (f" ({found[str(tokens)] / alone[str(tokens)]:5.2f})" if alone else " " * 8)
                for tokens in arguments.tokens
            )
            print(f"{attention:8} {size:2}" + "".join(told), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
