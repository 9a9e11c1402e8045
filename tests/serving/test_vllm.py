"""Exported runs, served by vLLM to OpenAI's client over loopback: the same text as `mfa-train generate` gives, and the
same probabilities. `make serve-test` builds .venv-serve; docs/serving.md has what it printed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from mfa_train import config as configs
from mfa_train.attention.rope import Rope, RopeScaling
from mfa_train.checkpoints.model import model_of
from mfa_train.checkpoints.weights import weights_of
from mfa_train.export.formats.base import rope_parameters
from mfa_train.export.formats.step3 import Step3
from tests.conftest import ROOT

SERVE = ROOT / ".venv-serve" / "bin"
HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not (SERVE / "vllm").exists(), reason="no .venv-serve: make .venv/.serve")

RUN = [
    *("model.hidden_size=128", "model.num_hidden_layers=2", "model.intermediate_size=256", "tracking=none"),
    *("model.num_attention_heads=4", "model.num_key_value_heads=2", "model.head_dim=32", "training.eval_sequences=8"),
    *("training.steps=60", "training.sequence_length=64", "schedule.warmup_steps=5", "sample.max_new_tokens=8"),
]
SOLVED = [
    *("attention.q_lora_rank=60", "attention.latent_scale=true", "attention.latent_norm_eps=1e-3"),
    *("attention.rope_interleave=true", "model.tie_word_embeddings=true"),
    "attention.rope_scaling={rope_type: linear, factor: 4.0}",
]
"""What vLLM's class lacks and the export makes good."""
EXPERTS = [
    *("feed_forward=experts", "model.feed_forward.n_routed_experts=8", "model.feed_forward.num_experts_per_tok=3"),
    "model.feed_forward.moe_intermediate_size=64",
]
ONE_DENSE, NONE_SHARED = "model.feed_forward.first_k_dense_replace=1", "model.feed_forward.n_shared_experts=0"
RUNS = {
    "mfa": [],
    "mfa solved": SOLVED,
    "mfa experts": [*EXPERTS, ONE_DENSE],
    "gqa": [],
    "gqa experts": [*EXPERTS, NONE_SHARED],  # Mixtral
    "gqa experts qk_norm": [*EXPERTS, NONE_SHARED, ONE_DENSE, "attention.qk_norm=true"],  # Qwen3-MoE
    "mla": ["attention.kv_lora_rank=512", "attention.qk_rope_head_dim=64"],  # all that its backend for CPUs knows
}
PROMPTS = ["def ", "class A", "import os\n\nx = ["]
TEXT = (ROOT / "mfa_train" / "errors.py").read_text(encoding="utf-8")[:400]
NEW_TOKENS = 40


@pytest.fixture
def exported(prepared_data, tmp_path):
    """`exported(name, precision)`: a short run of RUNS, and its export."""

    def make(name: str, precision: str) -> tuple[Path, Path]:
        words = [f"attention={name.split()[0]}", *RUN, *RUNS[name], f"precision={precision}", "name=run"]
        command("train.py", *words, f"data_dir={prepared_data}", f"runs_dir={tmp_path}")
        command("-m", "mfa_train.cli", "export", str(tmp_path / "run"), "--out", str(tmp_path / "out"))
        return tmp_path / "run", tmp_path / "out"

    return make


def command(*words: str) -> str:
    """What it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def served(folder: Path, dtype: str):
    """The URL of a server of its own, which is gone at the end: after ten minutes whatever becomes of this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "run", "--dtype", dtype]
    log = folder.parent / "vllm.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            ["timeout", "--kill-after=10", "600", SERVE / "vllm", "serve", folder, *words, "--enforce-eager"],
            env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        while not answers(url := f"http://127.0.0.1:{port}"):
            assert server.poll() is None, log.read_text()[-4000:]
            time.sleep(0.5)
        yield url
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=15)


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
        return answer.status == 200
    return False


def told_by(url: str) -> dict:
    asked = {"url": url, "prompts": PROMPTS, "max_tokens": NEW_TOKENS, "text": TEXT}
    client = [SERVE / "python", HERE / "client.py"]
    done = subprocess.run(client, input=json.dumps(asked), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def logprobs_of(run: Path, tokens: list[int]) -> torch.Tensor:
    """Of every next token (tokens, vocabulary), by our model."""
    model = model_of(weights_of(run, configs.of_run(run))).eval()
    with torch.inference_mode():
        return model(torch.tensor([tokens]))[0].log_softmax(-1)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "mla"])
def test_vllm_says_what_generate_says_and_holds_a_text_for_as_likely(name, exported):
    run, out = exported(name, "fp32")
    words = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    overrides = ["--json", "sample.temperature=0", f"sample.max_new_tokens={NEW_TOKENS}"]
    ours = [
        json.loads(line)
        for line in command("-m", "mfa_train.cli", "generate", str(run), *words, *overrides).splitlines()
    ]
    with served(out, "float32") as url:
        theirs = told_by(url)
    assert [answer["text"] for answer in theirs["answers"]] == [one["text"] for one in ours]
    tokenizer = weights_of(run, configs.of_run(run)).tokenizer()
    assert theirs["prompt"] == [tokenizer.eos_id, *tokenizer.encode([TEXT])[0].tolist()]
    tokens = torch.tensor(theirs["prompt"])
    expected = logprobs_of(run, theirs["prompt"])[:-1].gather(1, tokens[1:, None]).squeeze(1)
    difference = (torch.tensor(theirs["logprobs"][1:]) - expected).abs().max().item()
    print(f"\n{name}: {len(tokens) - 1} log-probabilities differ by {difference:.1e} at most")
    assert len(tokens) > 100 and difference < 2e-3


def test_vllm_serves_mla_in_bf16_with_our_tokens_where_rounding_cannot_turn_them(exported):
    run, out = exported("mla", "bf16")
    with served(out, "bfloat16") as url:
        theirs = told_by(url)
    tokenizer = weights_of(run, configs.of_run(run)).tokenizer()
    compared = total = 0
    for prompt, answer in zip(PROMPTS, theirs["answers"]):
        before = [tokenizer.eos_id, *tokenizer.encode([prompt])[0].tolist()]
        best = logprobs_of(run, before + answer["tokens"])[len(before) - 1 : -1].topk(2)
        clear = best.values[:, 0] - best.values[:, 1] > 0.1  # logits of a few units have steps of 1/64 in bf16
        assert best.indices[clear, 0].tolist() == torch.tensor(answer["tokens"])[clear].tolist()
        compared, total = compared + int(clear.sum()), total + len(clear)
    print(f"\nmla: {compared} of {total} tokens compared")
    assert compared > total / 2


def test_vllm_turns_positions_as_we_do():
    scalings = [
        None,
        RopeScaling("linear", 4.0),
        RopeScaling("yarn", 3.0, 100, beta_fast=20.0, beta_slow=2.0),
        RopeScaling("llama3", 8.0, 64),
    ]
    plain = configs.load(["attention=mfa"])
    parameters = []
    for scaling in scalings:
        attention = Step3(plain).attention
        attention.rope_scaling = scaling
        parameters.append(rope_parameters(attention))
    script = """
import json, sys, torch
from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding import get_rope
with set_current_vllm_config(VllmConfig(device_config=DeviceConfig("cpu"))):
    made = [get_rope(64, 256, rope_parameters=one, dtype=torch.float32) for one in json.load(sys.stdin)]
print(json.dumps([rope.cos_sin_cache[:256].tolist() for rope in made]))
"""
    done = subprocess.run(
        [SERVE / "python", "-c", script], input=json.dumps(parameters), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    for scaling, theirs in zip(scalings, json.loads(done.stdout.splitlines()[-1])):
        ours = Rope(64, attention.rope_theta, scaling)(torch.arange(256))
        torch.testing.assert_close(torch.cat((ours.cos, ours.sin), dim=-1), torch.tensor(theirs), atol=1e-4, rtol=0)
