"""Run folders of a ladder that was never trained: losses from known laws, to hold `compare` against what it should
find.

The files are those that train.py leaves (config.yaml composed by Hydra, summary.json by make_summary).
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from scipy import stats

from mfa_train import config as configs
from mfa_train.evaluation.scores import Metric, TaskScores, write
from mfa_train.scaling.laws.law import Law
from mfa_train.training.run_folder.closing import make_summary

HOFFMANN = Law(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
"""As Besiroglu et al. 2024 (arXiv 2404.10102, table 1) fit Hoffmann et al.'s points."""
SIZES = {"4x192": 3.2e6, "6x320": 9.1e6, "8x512": 3.0e7}
TOKENS = (5e7, 1.5e8, 4.5e8)
DOCUMENTS = 400
"""Of a made-up task."""


@dataclass
class Variant:
    attention: str
    law: Law
    kv_share: float
    """Of MHA's cache."""
    flops_share: float = 1.0
    """Of 6·N a token."""


NANO = Law(E=1.9, A=180.0, alpha=0.33, B=900.0, beta=0.36)
VARIANTS = (
    Variant("mha", NANO, 1.0),
    Variant("mla", Law(**{**asdict(NANO), "B": 950.0}), 0.19, 1.02),
    Variant("mfa", Law(**{**asdict(NANO), "B": 880.0}), 0.17, 1.1),
)


def write_ladder(
    folder: Path, variants=VARIANTS, sizes=SIZES, tokens=TOKENS, seeds=(1, 2, 3), noise: float = 5e-4, records: int = 30
) -> list[Path]:
    """A run for each variant, size, budget and seed. Seeds move all variants alike, by as much as the noise."""
    written = []
    bases = {variant.attention: yaml.safe_load(_base(variant.attention)) for variant in variants}
    for variant, (size, params), budget, seed in itertools.product(variants, sizes.items(), tokens, seeds):
        shared = np.random.default_rng([seed, int(params)]).normal(0, noise)
        own = np.random.default_rng([seed, int(params), int(budget), *variant.attention.encode()]).normal(0, noise)
        layers, hidden = map(int, size.split("x"))
        name = f"{variant.attention}-{size}-{budget:.0e}-seed{seed}".replace("+", "")
        config = bases[variant.attention]
        config |= {"name": name, "seed": seed}
        config["model"] |= {"num_hidden_layers": layers, "hidden_size": hidden}
        config["training"] |= {"steps": int(budget) // 2048}
        loss = float(variant.law(params, budget) * np.exp(shared + own))
        written.append(write_run(folder / name, config, variant, params, budget, loss, records))
    return written


@functools.cache
def _base(attention: str) -> str:
    return configs.to_yaml(configs.load([f"attention={attention}"]))


def write_run(
    folder: Path, config: dict, variant: Variant, params: float, tokens: float, loss: float, records: int = 30
) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.dump(config, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    layers, hidden = config["model"]["num_hidden_layers"], config["model"]["hidden_size"]
    plan = {
        "attention": variant.attention,
        "params": {"total": int(params), "non_embedding": int(params * 0.8)},
        "kv_cache": {"bytes_per_token": round(4 * layers * hidden * variant.kv_share)},
        "model": {"hidden_size": hidden, "num_hidden_layers": layers},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    flops = 6 * params * tokens * variant.flops_share
    curve = []
    for share in np.geomspace(1e-3, 1, records):
        curve.append(
            {
                "step": int(share * config["training"]["steps"]),
                "tokens": int(tokens * share),
                "flops": flops * share,
                "seconds": 1000 * share,
                "train/loss": loss + 0.3 * (share**-0.3 - 1),
            }
        )
        if len(curve) % 5 == 0 or share == 1:
            curve[-1] |= {"val/loss": loss + 0.25 * (share**-0.3 - 1), "val/bits_per_byte": loss / 2.4}
    curve[-1] |= {"val/loss": loss, "tokens": int(tokens), "val/bits_per_byte": loss / 2.4}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in curve))
    summary = make_summary("finished", plan, curve[-1], 2.0)
    summary |= {
        "config_sha256": hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest(),
        "code_commit": "d" * 40,
        "versions": {"torch": "2"},
        "data": {"tokenizer_sha256": "t" * 64, "train_sha256": "a" * 64, "held_out_sha256": "b" * 64},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_scores(run: Path, task: str, bits: float = 0.0, seeds: float = 0.003, **changes) -> Path:
    """Scores of a run on a made-up task: bits per byte above those of others by `bits`, varying with the run by
    `seeds`, and right answers that go with them."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    steps = config["training"]["steps"]
    of_task = np.random.default_rng([*task.encode()])
    own = np.random.default_rng([*task.encode(), *run.name.encode()])
    hard = of_task.normal(0, 0.6, DOCUMENTS)
    each = 2 + hard + bits + own.normal(0, seeds) + own.normal(0, 0.1, DOCUMENTS)
    right = (own.random(DOCUMENTS) < 1 / (1 + np.exp(hard))).astype(float)
    found = TaskScores(
        task=task,
        task_version="1.0",
        num_fewshot=0,
        checkpoint="final",
        step=steps,
        tokens=steps * 2048,
        limit=None,
        documents=DOCUMENTS,
        documents_sha256=hashlib.sha256(task.encode()).hexdigest(),
        truncated=0,
        metrics={
            "acc": Metric(float(right.mean()), float(stats.sem(right)), True),
            "bits_per_byte": Metric(float(each.mean()), float(stats.sem(each)), False),
        },
        by_document={"acc": right.tolist(), "bits_per_byte": each.tolist()},
        versions={"lm_eval": "0.4.13", "mfa_train": "d" * 40},
        seconds=1.0,
    )
    return write(run, dataclasses.replace(found, **changes))


def edit(run: Path, name: str = "summary.json", **changes) -> None:
    """Changes keys of a file of a run."""
    summary = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps(summary | changes))
