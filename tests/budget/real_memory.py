"""What real ranks hold: trains a step and a half with DeepSpeed and looks at every tensor, and at every allocation.

    python real_memory.py RANKS OVERRIDE…

Prints one JSON object of rank 0: `states`, bytes of all tensors' storages once the second backward pass is done, its
activations gone; `activations`, the most bytes the allocator had handed out at once during that pass beyond those
before; `peak`, these and the tensors from before it; `copied`, what a save copies; `sent`, bytes that each of two ranks
sends in a step.
"""

import gc
import json
import os
import socket
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def tensor_bytes() -> int:
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def counted(backend: type, sent: list[int]) -> None:
    """Appends to `sent` what DeepSpeed's collectives make each of two ranks send: half of what is gathered or
    scattered, and twice that of an all-reduce."""

    def count(name: str, tensor_at: int, ways: int) -> None:
        collective = getattr(backend, name)

        def counting(self, *tensors, **rest):
            named = rest.get("tensor", rest.get("output_tensor")) if tensor_at < 1 else rest.get("input_tensor")
            tensor = tensors[tensor_at] if len(tensors) > tensor_at else named
            sent.append(ways * tensor.nbytes // 2)
            return collective(self, *tensors, **rest)

        setattr(backend, name, counting)

    count("all_reduce", 0, 2)
    count("all_gather_into_tensor", 0, 1)
    count("reduce_scatter_tensor", 1, 1)


def look(rank: int, ranks: int, port: int, overrides: list[str]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import deepspeed

    from benchmarks.long_context import allocated_peak
    from mfa_train import config as configs
    from mfa_train.attention.shared import SharedSequence
    from mfa_train.attention.shared_heads import SharedHeads
    from mfa_train.training.processes.groups import join_context_group
    from mfa_train.training.processes.ranks import join
    from mfa_train.training.saving.writer import CheckpointWriter
    from mfa_train.training.steps.engine import build_engine

    config = configs.load(overrides)
    engine = build_engine(config, join(), {"bf16": torch.bfloat16, "fp32": torch.float32}[config.precision])

    context = config.parallel.context
    by = config.parallel.context_by
    group = join_context_group(context, join(), by)
    sharing = {"entries": SharedSequence, "heads": SharedHeads}

    def forward_and_backward(sequences: int, length: int) -> None:
        tokens = torch.randint(0, config.model.vocab_size, (sequences, length // context + 1))
        shared = {"sequence": sharing[by](group, length)} if context > 1 else {}
        engine.backward(engine(tokens[:, :-1], tokens[:, 1:], **shared))

    forward_and_backward(1, 16)  # only so that there are optimizer states
    engine.step()
    at_rest = tensor_bytes()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        forward_and_backward(config.training.micro_batch(ranks // context), config.training.sequence_length)
    states, passing = tensor_bytes(), allocated_peak(recorded)
    writer = CheckpointWriter(config.checkpoint, Path(), 0, join(), 0)
    copied = sum(tensor.nbytes for tensor in writer._copied(engine).values())
    engine.step()
    counted(type(deepspeed.comm.comm.cdb), sent := [])
    forward_and_backward(1, 16)
    engine.step()
    if rank == 0:
        found = {
            "states": states,
            "activations": passing,
            "peak": at_rest + passing,
            "copied": copied,
            "sent": sum(sent),
        }
        print(json.dumps(found), flush=True)
    os._exit(0)  # without DeepSpeed's farewells


def main() -> None:
    ranks, overrides = int(sys.argv[1]), sys.argv[2:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = torch.multiprocessing.get_context("fork")
    started = [processes.Process(target=look, args=(rank, ranks, port, overrides)) for rank in range(ranks)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    sys.exit(max(process.exitcode for process in started))


if __name__ == "__main__":
    main()
