"""Predicted memory against that of real ranks: DeepSpeed's tensors and the allocator's own account (real_memory.py)."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mfa_train import config as configs
from mfa_train.attention.kernels.causal import _flash_scratch
from mfa_train.budget.communication import traffic
from mfa_train.budget.devices import Device
from mfa_train.budget.memory import checkpoint_copy, model_states
from mfa_train.budget.plan import ACTIVATIONS, make_plan
from mfa_train.budget.shape import measure
from tests.conftest import ROOT

CPU = Device("cpu", "cpu", 2**40, None)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def real(ranks: int, *overrides: str) -> dict[str, int]:
    script = ROOT / "tests" / "budget" / "real_memory.py"
    done = subprocess.run(
        [sys.executable, script, str(ranks), *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_model_states_of_two_ranks_are_those_predicted(zero, precision):
    """Of every stage once with the average of the weights, which is kept and saved beside."""
    ema = (precision == "fp32") == zero % 2
    overrides = [
        "model=nano",
        "attention=mfa",
        f"zero={zero}",
        f"precision={precision}",
        "training.batch_size=2",
        "training.sequence_length=128",
        f"training.ema={0.999 if ema else 'null'}",
    ]
    found, config = real(2, *overrides), configs.load(overrides)
    sizes = measure(config.model, config.attention).parameter_sizes
    states = model_states(sizes, DTYPES[precision], zero, ranks=2, ema=ema)
    assert states.weights + states.gradients + states.optimizer == pytest.approx(found["states"], rel=0.02)
    memory = make_plan(config, CPU, ranks=2)["memory"]
    assert memory["optimizer"] == states.optimizer
    assert memory["checkpoint_copy"] == pytest.approx(found["copied"], rel=0.02)
    assert memory["total"] == pytest.approx(found["peak"] + found["copied"], rel=0.20)
    assert traffic(sizes, DTYPES[precision], zero, ranks=2, passes=1) == pytest.approx(found["sent"], rel=0.02)


def test_what_two_ranks_hold_that_share_experts_out_is_what_is_predicted():
    """In the second pass of a new model, whose experts are busy unevenly."""
    overrides = [
        *("model=nano_moe", "attention=mfa", "parallel.experts=2", "zero=1", "precision=bf16"),
        *("training.batch_size=4", "training.sequence_length=128"),
    ]
    found, config = real(2, *overrides), configs.load(overrides)
    shape = measure(config.model, config.attention)
    states = model_states(
        shape.parameter_sizes, torch.bfloat16, 1, ranks=2, expert_sizes=shape.expert_sizes, expert_ranks=2
    )
    assert states.weights + states.gradients + states.optimizer == pytest.approx(found["states"], rel=0.02)
    memory = make_plan(config, CPU, ranks=2)["memory"]
    assert memory["checkpoint_copy"] == pytest.approx(found["copied"], rel=0.02)
    assert memory["total"] == pytest.approx(found["peak"] + found["copied"], rel=0.20)


@pytest.mark.parametrize(
    "model, attention, precision, checkpointing, sequences",
    [
        ("nano", "mfa", "bf16", "none", 4),
        ("nano", "mha", "fp32", "none", 4),
        ("nano", "tpa", "bf16", "full", 4),
        ("nano_moe", "mfa", "bf16", "none", 4),
        ("tiny model.num_hidden_layers=2", "mla", "bf16", "none", 2),
        ("tiny model.num_hidden_layers=2", "mha", "bf16", "none", 2),
        ("tiny", "gqa", "fp32", "selective", 4),
        ("nano training.mlp_tile_tokens=128", "mha", "fp32", "selective", 4),
    ],
)
def test_activations_are_those_that_a_real_step_allocates(model, attention, precision, checkpointing, sequences):
    """At ZeRO 1 in bf16 and 0 in float32 a pass allocates its gradients besides: they come as activations go."""
    overrides = [
        *f"model={model}".split(),
        f"attention={attention}",
        f"precision={precision}",
        f"training.batch_size={sequences}",
        f"zero={1 if precision == 'bf16' else 0}",
        f"training.activation_checkpointing={checkpointing}",
    ]
    memory = make_plan(configs.load(overrides), CPU, ranks=1)["memory"]
    predicted = memory[ACTIVATIONS[checkpointing]]
    assert predicted == pytest.approx(real(1, *overrides)["activations"], rel=0.20)


@pytest.mark.parametrize(
    "attention, way, precision, checkpointing",
    [("mla", "entries", "bf16", "none"), ("mha", "entries", "fp32", "full"), ("mha", "heads", "bf16", "none")],
)
def test_activations_of_ranks_that_share_sequences_are_those_that_a_real_pass_allocates(
    attention, way, precision, checkpointing
):
    """Of two ranks: the first's."""
    overrides = [
        *("model=nano", f"attention={attention}", f"precision={precision}", f"zero={1 if precision == 'bf16' else 0}"),
        *("parallel.context=2", f"parallel.context_by={way}", "training.batch_size=2"),
        *("training.sequence_length=1024", f"training.activation_checkpointing={checkpointing}"),
    ]
    memory = make_plan(configs.load(overrides), CPU, ranks=2)["memory"]
    assert memory[ACTIVATIONS[checkpointing]] == pytest.approx(real(2, *overrides)["activations"], rel=0.20)


@pytest.mark.parametrize(
    "stage, ranks, expected",
    [
        (0, 1, 3 * (2 * 4096 + 512)),  # 1,000 float32 values are 4,000 bytes, 100 are 400
        (1, 1, 3 * (2 * 4096 + 512)),
        (3, 2, 3 * (2 * 2048 + 256)),  # 500 and 50 of each
        (2, 4, 3 * (1 * 4096 + 512)),  # a rank's 525 lie in one or two parameters: 2,100 bytes, and 400
    ],
)
def test_pinned_memory_is_taken_in_powers_of_two(stage, ranks, expected):
    sizes = ((1000, 2), (100, 1))
    assert checkpoint_copy(sizes, stage, ranks, pinned=True) == expected
    assert checkpoint_copy(sizes, stage, ranks, pinned=False) == 12 * -(-2100 // ranks)


def test_flash_attns_scratch_is_what_its_backward_pass_allocates():
    """By hand, of `mha_bwd`: 200 tokens are rounded to 256, 80 dimensions to 96; 2 × 8 heads leave 132 multiprocessors
    9 sums each; keys and values of one head are summed of 8."""
    with torch.device("meta"):
        q, k = torch.empty(2, 200, 8, 80, dtype=torch.bfloat16), torch.empty(2, 200, 1, 80, dtype=torch.bfloat16)
    sums, rows = 4 * 9 * 2 * 256 * 8 * 96, 4 * 2 * 8 * 256
    each = 2 * 2 * 200 * 8 * 80
    assert [one.untyped_storage().nbytes() for one in _flash_scratch(q, k)] == [sums, rows, each, each]
    assert [one.untyped_storage().nbytes() for one in _flash_scratch(q, q)] == [sums, rows]
