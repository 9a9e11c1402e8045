"""Ladders: which runs there are, what they cost, and that a branch is the run that would have been trained from the
start."""

import json
import os
import re
import subprocess
import sys

import pytest

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.scaling.ladder import members as ladder
from mfa_train.scaling.ladder.plan import ladder_plan, ladder_table
from mfa_train.scaling.study.gather import gather
from tests.conftest import ROOT

TIMES = ("seconds", "tokens_per_second", "mfu", "checkpoint/blocking_seconds")


def test_a_ladder_is_every_variant_at_every_size_cache_and_seed_its_smaller_budgets_branching_off_the_largest():
    members = ladder.members(["sweep=nano", "attention=mha,mfa", "model=280k,860k", "seed=1,2"])
    cells = {
        (
            member.config.attention["name"],
            member.config.model.name,
            member.config.match.kv_bytes_per_token,
            member.config.seed,
        )
        for member in members
    }
    assert len(members) == 3 * len(cells) == 3 * 2 * 2 * 3  # budgets × sizes × seeds × (mha, mfa at two shares)
    assert {cell[2] for cell in cells if cell[:2] == ("mfa", "280k")} == {768 // 4, 768 // 8}
    assert [member.config.seed for member in members] == [1] * 18 + [2] * 18
    for member in members[::5]:  # what is handed on is the same member again
        assert configs.load(member.overrides) == member.config
    largest, *branches = [
        member for member in members if member.config.name.startswith("mfa-kv192-280k") and member.config.seed == 1
    ]
    assert largest.after is None and len(largest.config.checkpoint.at_steps) == 2
    for branch in branches:
        assert branch.after == largest.config.run_dir
        decays_from = branch.config.training.steps - round(0.2 * branch.config.training.steps)
        assert branch.config.resume == str(branch.after / "checkpoints" / f"step-{decays_from:08d}")
        assert decays_from in largest.config.checkpoint.at_steps
    # The same tokens in the same order for every variant: multiples of what the reference has.
    lengths = {
        member.config.training.steps * member.config.training.batch_size * 256 / 282_048
        for member in members
        if member.config.model.name == "280k"
    }
    assert sorted(lengths) == pytest.approx([2, 4, 8], rel=4e-3)


def test_lengths_rates_and_batches_come_from_the_ladder_or_from_what_is_typed():
    def first(*overrides):
        return ladder.members(["sweep=ladder", "model=125m", "attention=mha", "seed=1", *overrides])[0].config

    # arXiv 2503.04715 at N = 85,058,304 without embeddings, D = 1.825e9 tokens.
    assert first().optimizer.lr == pytest.approx(1.79 * 85_058_304**-0.713 * 1.825e9**0.307, rel=5e-3)
    assert first().training.batch_size == 64  # 0.58 · D^0.571 = 112,000 tokens of 2048 a sequence: 55
    assert first("optimizer.lr=3e-4", "training.batch_size=48").optimizer.lr == 3e-4
    tuned = first("sweep.ladder.learning_rate=size", "+sweep.ladder.learning_rate_factors.mha=0.5")
    assert tuned.optimizer.lr == 0.5 * tuned.model.learning_rate
    config = first("sweep.ladder.tokens_per_parameter=null", "sweep.ladder.flops=[3e18]")
    [row] = ladder_plan(
        ladder.members(
            [
                "sweep=ladder",
                "model=125m",
                "attention=mha",
                "seed=1",
                "sweep.ladder.tokens_per_parameter=null",
                "sweep.ladder.flops=[3e18]",
            ]
        )
    )["rows"]
    assert row["flops"] == pytest.approx(3e18, rel=1e-3) and config.checkpoint.at_steps == []


def test_the_plan_counts_what_is_trained_and_leaves_out_what_has_no_shape():
    said = []
    members = ladder.members(
        [
            "sweep=ladder",
            "model=280k",
            "attention=tpa",
            "seed=1",
            "match.multiple_of=4",
            "data.vocab_size=1024",
            "cluster.device=h100-80gb",
        ],
        said.append,
    )
    plan = ladder_plan(members)
    assert [line.split(":")[0] for line in said] == ["left out"] and "tpa of model=280k" in said[0]
    [row] = plan["rows"]
    steps = [member.config.training.steps for member in members]
    trained = steps[0] + sum(step - round(0.8 * step) for step in steps[1:])
    assert row["tokens"] == pytest.approx(trained * members[0].config.training.batch_size * 256, rel=1e-3)
    assert row["runs"] == 3 and plan["total"]["device_hours"] > 0


LITTLE = ["sweep=ladder", "model=280k", "attention=mha", "seed=1", "match.multiple_of=4", "data.vocab_size=1024"]


def test_the_plan_tells_lengths_and_what_lies_on_the_disk_of_the_run_and_of_its_branches():
    typed = [*LITTLE, "cluster.device=h100-80gb", "checkpoint.every_steps=10", "checkpoint.keep_last=1"]
    members = ladder.members(typed)
    plan = ladder_plan(members)
    [row] = plan["rows"]
    assert row["steps"] == sorted(member.config.training.steps for member in members)
    assert row["tokens_per_parameter"] == pytest.approx([5, 10, 20], rel=0.01)
    # Each keeps its newest and writes one more; the longest keeps what the two others branch off.
    checkpoints, disk = 3 * (1 + 1) + 2, plan["plans"][0]["disk"]
    assert row["disk_bytes"] == checkpoints * disk["checkpoint_bytes"] + 3 * disk["final_weights_bytes"]
    assert plan["total"]["disk_bytes"] == row["disk_bytes"]
    told = ladder_table(plan)
    assert "5 to 20" in told and "schedule wsd, last learning rate 0" in told and " steps, warmup 50" in told


def test_a_ladder_of_which_a_part_is_not_known_has_no_total():
    """The table of devices has no peak in fp32; a CPU's is measured."""
    plan = ladder_plan(ladder.members([*LITTLE, "precision=fp32", "cluster.device=h100-80gb,cpu"]))
    known = [row["device_hours"] is not None for row in plan["rows"]]
    assert known == [False, True] and plan["total"]["device_hours"] is None and plan["total"]["disk_bytes"] > 0
    assert "no total of device-hours: not known for 1 of 2 rows" in ladder_table(plan)


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["training.steps=5"], "training.steps: a ladder sets it itself: type sweep.ladder.tokens_per_parameter="),
        (["schedule=cosine"], "schedule=cosine: budgets can't branch off"),
        (["attention=mha", "sweep.ladder.variants=null"], "sweep.ladder.variants"),
        (["sweep.ladder.kv_shares=[2]"], "sweep.ladder.kv_shares=2.0: expected shares of MHA's cache"),
        (["sweep.ladder.flops=[1e18]"], "tokens_per_parameter and flops both say how long"),
        (["sweep.ladder.rungs=[{model: 280k, token: 5}]"], "sweep.ladder.rungs[0].token: no such key"),
        (
            ["sweep.ladder.rungs=[{model: 280k, seeds: [one]}]"],
            "sweep.ladder.rungs[0].seeds[0]=one: expected a whole number",
        ),
        (["sweep.ladder.rungs=[280k]"], "sweep.ladder.rungs[0]=280k: expected keys with values"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused(overrides, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        ladder.members(["sweep=ladder", "model=280k", "data.vocab_size=1024", *overrides], lambda _: None)


def test_a_branch_is_bit_for_bit_the_run_that_is_trained_from_the_start(prepared_data, tmp_path):
    common = [
        "model=280k",
        "attention=mfa",
        "seed=1",
        f"data_dir={prepared_data}",
        f"runs_dir={tmp_path}",
        "precision=fp32",
        "schedule.warmup_steps=3",
        "training.log_every=1",
        "training.eval_sequences=4",
        "sample.max_new_tokens=0",
        "tracking=none",
        "match.multiple_of=4",
        "training.sequence_length=32",
    ]

    def train(*words):
        return subprocess.run(
            [sys.executable, "train.py", *words, *common],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )

    sweep = [
        "-m",
        "sweep=ladder",
        "sweep.ladder.kv_shares=[0.25]",
        "sweep.ladder.tokens_per_parameter=[0.004,0.008]",
        "sweep.ladder.batch_size=size",
        "sweep.ladder.learning_rate=size",
    ]
    done = train(*sweep)
    assert done.returncode == 0, done.stdout + done.stderr
    assert train(*sweep).stdout.count("finished before") == 2
    [branch] = [path.parent for path in tmp_path.glob("*/config.yaml") if "resume: auto" not in path.read_text()]
    steps = len((branch / "metrics.jsonl").read_text().splitlines())
    scratch = train(
        "sweep=ladder",
        "sweep.ladder=null",
        "name=scratch",
        f"training.steps={steps}",
        f"match.kv_bytes_per_token={768 // 4}",
    )
    assert scratch.returncode == 0, scratch.stderr
    expected, got = (
        [
            {
                key: value
                for key, value in json.loads(line).items()
                if key not in TIMES and key.split("/")[0] not in ("time", "memory")
            }
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (tmp_path / "scratch", branch)
    )
    assert got == expected and steps > 10
    assert len(gather([branch, tmp_path / "scratch"]).used) == 2
