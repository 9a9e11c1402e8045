"""Prompts that ranks read together go on as one rank's."""

import contextlib
import copy
import io
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from mfa_train import cli
from mfa_train.attention.cache import DecodeCache
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.generation import decode, room
from mfa_train.parallel.groups import WHOLE_SEQUENCES, ContextGroup
from tests.conftest import ROOT, VARIANTS
from tests.test_first_round import FILES

LENGTHS = torch.tensor([3, 17, 1, 10])
PROMPTS = torch.randint(0, 199, (4, 17), generator=torch.Generator().manual_seed(0))


class Exchange:
    """What threads of this process send each other, in place of a process group."""

    def __init__(self, size: int):
        self.size, self.here, self.barrier = size, threading.local(), threading.Barrier(size, timeout=60)
        self.sent: dict[int, Tensor] = {}

    def all(self, x: Tensor) -> Tensor:
        """Every thread's x, stacked."""
        self.sent[self.here.rank] = x
        self.barrier.wait()
        found = torch.stack([self.sent[rank] for rank in range(self.size)])
        self.barrier.wait()
        return found

    def gather(self, into: Tensor, x: Tensor, group: "Exchange", async_op: bool) -> "Exchange":
        into.copy_(group.all(x).flatten(0, 1))
        return group

    def wait(self) -> None:
        """Nothing is left to wait for."""


def on_ranks(size: int, model: LanguageModel, do: Callable[[LanguageModel, ContextGroup], Tensor]) -> list[Tensor]:
    """What `do` gives on each of so many ranks, threads each with a model of its own."""
    exchange = Exchange(size)

    def rank(place: int) -> Tensor:
        exchange.here.rank = place
        try:
            return do(copy.deepcopy(model), ContextGroup(place, size, exchange))
        except BaseException:
            exchange.barrier.abort()
            raise

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(size) as threads:
        patch.setattr(dist, "all_reduce", lambda x, group: x.copy_(group.all(x.clone()).sum(0)))
        patch.setattr(dist, "all_gather_single", exchange.gather)
        return list(threads.map(rank, range(size)))


def text(
    model: LanguageModel, group: ContextGroup = WHOLE_SEQUENCES, dtype: torch.dtype | None = None, **choices
) -> tuple[Tensor, DecodeCache]:
    """Eight tokens behind each prompt, and the cache."""
    cache = DecodeCache(len(model.model.layers), room(17, 8, group), dtype)
    return torch.stack(list(decode(model, PROMPTS, 8, cache=cache, sequences=group, **choices))), cache


@pytest.mark.parametrize("attention", VARIANTS)
def test_prompts_of_different_length_go_on_as_one_ranks_and_leave_its_cache(attention, small_model):
    model, choices = small_model(attention), {"lengths": LENGTHS, "temperature": 0}
    expected, whole = text(model, **choices)
    for found, cache in on_ranks(2, model, lambda model, group: text(model, group, **choices)):
        assert torch.equal(found, expected)
        assert (cache.length, cache.lengths.tolist()) == (whole.length, whole.lengths.tolist())
        for its, of_one in zip(cache.layers, whole.layers):
            for buffer, other in zip(its.buffers, of_one.buffers):
                torch.testing.assert_close(buffer[:, : whole.length], other[:, : whole.length])


EXPERTS = "feed_forward=experts"


@pytest.mark.parametrize(
    "attention, overrides, choices",
    [
        ("mfa", [], {"temperature": 1.0, "seed": 5}),
        ("mfa", [], {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "lengths": LENGTHS}),
        ("mfa", [EXPERTS], {"temperature": 0, "lengths": LENGTHS}),
        ("gqa", [EXPERTS, "model.feed_forward.scoring_func=sigmoid"], {"temperature": 1.0}),
        ("mla", [], {"temperature": 0, "lengths": LENGTHS, "dtype": torch.bfloat16}),
        ("mla", [], {"temperature": 1.0, "lengths": LENGTHS, "dtype": torch.float8_e4m3fn}),
    ],
    ids=["drawn", "drawn from few", "experts", "experts drawn", "bf16", "fp8 drawn"],
)
def test_draws_experts_and_smaller_caches_are_one_ranks(attention, overrides, choices, small_model):
    model = small_model(attention, *overrides)
    expected, _ = text(model, **choices)
    for found, _ in on_ranks(3, model, lambda model, group: text(model, group, **choices)):
        assert torch.equal(found, expected)


def test_two_ranks_say_what_one_says_and_how_much_memory_each_had(tmp_path, monkeypatch):
    folder = shutil.copytree(FILES, tmp_path / "here")
    (folder / "long.txt").write_bytes((ROOT / "mfa_train" / "cli.py").read_bytes()[:2000])
    typed = ["generate", "runs/mfa", "--prompt", "The run", "--prompt-file", "long.txt", "--num-samples", "2"]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "mfa_train.cli",
    ]
    two = subprocess.run(
        [*launcher, *typed, "parallel.context=2", "sample.max_new_tokens=8"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert two.returncode == 0, two.stderr
    peaks = re.findall(r"rank \d [\d.]+ [MG]iB \([\d.]+ [MK]?i?B more than before the prompts\)", two.stderr)
    assert [peak[:6] for peak in peaks] == ["rank 0", "rank 1"]

    def door(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mfa-train", *typed, *words])
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
            return cli.main(), out.getvalue(), error.getvalue()

    monkeypatch.chdir(folder)
    status, out, _ = door("sample.max_new_tokens=8")
    assert (status, out) == (0, two.stdout) and out.count("---------------\n") == 3
    for words, told in (
        (["parallel.context=2"], "parallel.context=2: there is 1 rank, and all read the prompts together: type "),
        (["parallel.context=0"], "parallel.context=0: expected a whole number of at least 1"),
        (["--prompt-file", "none.txt"], "--prompt-file none.txt: No such file or directory: type a file of text"),
        (["--prompt-file", "corpus/train-00000.bin"], "is no UTF-8: type a file of text in UTF-8"),
    ):
        status, out, error = door(*words)
        assert (status, out, error.count("\n")) == (2, "", 1) and told in error
