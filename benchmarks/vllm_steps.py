"""Times vLLM's decode steps, for benchmarks/decoding.py: run in .venv-serve, with a model's config.json and cells as
JSON on standard input, {"config", "cells": [[batch, context], ...], "dtype", "steps", "patience"}.

Its weights are drawn: no time depends on them. A cell's prompts are decoded together, once all of them are in the
cache. The last line is JSON, for each cell {"seconds": of each step, "first_token": seconds from the prompts to the
first token of the last} or {"failed": why}.
"""

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process: a step is a call

from vllm import LLM, SamplingParams, TokensPrompt


def measured(llm: LLM, batch: int, context: int, steps: int, patience: float, vocab_size: int) -> dict:
    engine = llm.llm_engine
    wanted = SamplingParams(temperature=0.0, max_tokens=steps + 2, ignore_eos=True, detokenize=False)
    prompts = [TokensPrompt(prompt_token_ids=random.choices(range(vocab_size), k=context)) for _ in range(batch)]
    names = [f"{batch}-{context}-{number}-{time.monotonic_ns()}" for number in range(batch)]
    begin = time.perf_counter()
    for name, prompt in zip(names, prompts):
        engine.add_request(name, prompt, wanted)
    waiting = set(names)
    while waiting:
        waiting -= {output.request_id for output in engine.step() if output.outputs and output.outputs[0].token_ids}
    first = time.perf_counter() - begin
    seconds: list[float] = []
    while engine.has_unfinished_requests() and (len(seconds) < 5 or sum(seconds) < patience):
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
    engine.abort_request(names)
    while engine.has_unfinished_requests():
        engine.step()
    return {"seconds": seconds[:steps], "first_token": first}


def main() -> None:
    asked = json.load(sys.stdin)
    cells, steps = asked["cells"], asked["steps"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(asked["config"]), encoding="utf-8")
        llm = LLM(
            folder,
            dtype=asked["dtype"],
            load_format="dummy",
            skip_tokenizer_init=True,
            max_model_len=max(context for _, context in cells) + steps + 2,
            max_num_seqs=max(batch for batch, _ in cells),
            enable_prefix_caching=False,
            disable_log_stats=True,
        )
        told = []
        for batch, context in cells:
            try:
                measured(llm, batch, min(context, 32), 2, 0.0, asked["config"]["vocab_size"])  # what starts late
                told.append(measured(llm, batch, context, steps, asked["patience"], asked["config"]["vocab_size"]))
            except (RuntimeError, ValueError) as error:
                told.append({"failed": str(error).splitlines()[0]})
    print(json.dumps(told))


if __name__ == "__main__":
    main()
