"""`mfa-train plan` and matched runs as a user types them."""

import json
import subprocess
import sys

import pytest

from mfa_train import cli
from tests.conftest import ROOT


def plan(*typed: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mfa_train.cli", "plan", *typed], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_several_plans_are_one_table_and_one_json_list():
    typed = [
        "attention=mha,mla",
        "model=1b",
        "cluster.device=h100-80gb",
        "match.kv_bytes_per_token=24KiB",
        "match.reference=mha",
    ]
    table, as_json = plan(*typed), plan(*typed, "--json")
    assert table.returncode == as_json.returncode == 0, table.stderr + as_json.stderr
    plans = json.loads(as_json.stdout)
    assert [one["attention"] for one in plans] == ["mha", "mla"]
    rows = {line.split("  ")[0].strip(): line.split()[-2:] for line in table.stdout.splitlines()}
    assert rows["KV bytes per token"] == [f"{one['kv_cache']['bytes_per_token']:,}" for one in plans]
    assert rows["KV cache against its budget"][0] == "reference"
    expected = {"attention", "params", "kv_cache", "capacity", "flops", "memory", "time", "model", "match"}
    assert expected | {"length", "data", "disk", "notes"} == plans[0].keys()
    assert f"mla: {'fits' if plans[1]['memory']['fits'] else 'does not fit'}, " in table.stdout


def test_matched_and_unmatched_stand_side_by_side():
    done = plan("model=1b", "attention=mfa", "match.reference=null,mha")
    assert done.returncode == 0, done.stderr
    assert [line.split()[-2:] for line in done.stdout.splitlines() if line.startswith("parameters against")] == [
        ["-", "-0.03%"]
    ]


def test_matched_variants_end_with_equal_budgets_and_parameters(train, tmp_path):
    done = train(
        "attention=mla,mfa",
        "match.kv_bytes_per_token=192",
        "match.reference=mha",
        "model.intermediate_size=256",
        "training.steps=2",
        "schedule.warmup_steps=1",
        python=("train.py", "-m"),
    )
    assert done.returncode == 0, done.stderr
    mla, mfa = (json.loads((tmp_path / f"{name}-nano" / "summary.json").read_text()) for name in ("mla", "mfa"))
    assert mla["kv_bytes_per_token"] == mfa["kv_bytes_per_token"] == 192
    assert mla["params"] == pytest.approx(mfa["params"], rel=0.005)
    assert "matched: KV cache 192 bytes per token, budget 192" in done.stdout
    report = json.loads((tmp_path / "mla-nano" / "plan.json").read_text())["match"]
    assert report["params"]["reference"] == "mha" and abs(report["params"]["difference"]) <= 0.005


def test_a_sweep_with_an_impossible_member_trains_none(train, tmp_path):
    done = train("attention=mha,gqa", "match.kv_bytes_per_token=8", python=("train.py", "-m"))
    assert done.returncode == 2
    assert "error: gqa-nano: match.kv_bytes_per_token=8: no gqa of model=nano caches so little" in done.stderr
    assert not list(tmp_path.iterdir())


MISTAKES = {
    "cluster.device=H100": "cluster.device=H100: no such device. Did you mean 'h100-80gb'?",
    "cluster.device=cuda": "cluster.device=cuda: expected auto, cpu, or which GPU it is: a100-40gb",
    "cluster.device=h100": "cluster.device=h100: no such device. Did you mean 'h100-80gb'?",
    "cluster.devices_per_node=3": "training.batch_size=8 is not a multiple of 3 ranks",
    "cluster.nodes=0": "cluster.nodes=0: expected a whole number of at least 1",
    "plan.cache_dtype=int4": "plan.cache_dtype=int4: expected one of bf16, fp8, fp32",
    "plan.mfu=1.5": "plan.mfu=1.5: expected a share above 0 and up to 1",
    "plan.mfu=no/such/run": "plan.mfu=no/such/run: no run with a metrics.jsonl is there; type plan.mfu=",
    "match.by=layers": "match.by=layers: expected one of intermediate_size, num_attention_heads",
    "match.kv_bytes_per_token=0": "match.kv_bytes_per_token=0: expected a whole number of bytes above 0",
    "match.kv_bytes_per_token=-1": "match.kv_bytes_per_token=-1: expected a whole number of bytes above 0",
    "match.kv_bytes_per_token=1e400KiB": "match.kv_bytes_per_token=1e400KiB: expected a whole number of bytes",
    "match.mha=num_attention_heads match.by=num_attention_heads": (
        "type match.mha=head_dim, or match.by=intermediate_size"
    ),
    "match.reference=../model/nano": "match.reference=../model/nano: no such attention.",
    "model=null": "expected GROUP=CHOICE or KEY=VALUE",
    "plan.mfu=true": "plan.mfu=True: expected a share",
    "attention.kernel=flash cluster.device=h100-80gb attention.head_dim=512": "at most 256 dimensions, not 512",
    "seed=interval(1,2)": "expected values one by one, as attention=mha,mfa",
    "attention=mfa,mfaa": "attention=mfaa: no such choice. Did you mean 'mfa'?",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_told_in_one_line(typed, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["mfa-train", "plan", *typed.split()])
    assert cli.main() == 2
    told = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 1 and MISTAKES[typed] in told


def test_a_300b_model_is_planned_in_less_than_a_gib_of_memory():
    typed = [
        "attention=mla",
        "model=7b",
        "model.hidden_size=16384",
        "model.num_hidden_layers=120",
        "model.intermediate_size=45056",
        "model.num_attention_heads=128",
        "cluster.device=b200-180gb",
        "--json",
    ]
    watched = (
        "import resource, subprocess, sys; print(subprocess.run(sys.argv[1:], capture_output=True, text=True).stdout, "
        "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", watched, sys.executable, "-m", "mfa_train.cli", "plan", *typed],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    printed, _, kibibytes = done.stdout.rpartition("}")
    assert 3.0e11 < json.loads(printed + "}")["params"]["total"] < 3.2e11
    assert int(kibibytes) < 2**20


def test_what_one_member_cannot_meet_does_not_hide_the_others():
    done = plan("attention=tpa,mfa", "model=7b", "match.kv_bytes_per_token=12KiB")
    assert done.returncode == 2
    assert "error: tpa: match.kv_bytes_per_token=12288: no tpa of model=7b caches so little" in done.stderr
    assert "12,288" in done.stdout
