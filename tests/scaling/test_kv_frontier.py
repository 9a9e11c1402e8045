"""KV bytes for the same loss: interpolated, with an interval that holds the truth."""

import numpy as np
import pytest

from mfa_train.scaling.kv_frontier import kv_at_equal_loss


def cell(generator, seeds: int, noise: float) -> list[dict]:
    """MFA at two caches and MLA between them in loss; what a seed does to all of them is larger than what it does to one."""
    common = generator.normal(0, 0.01, seeds)

    def row(variant: str, kv: int, loss: float) -> dict:
        by_seed = {str(seed): float(loss + common[seed] + generator.normal(0, noise)) for seed in range(seeds)}
        return {"accounting": "parameters", "size": "4x128", "cell_tokens": 1e6, "variant": variant, "kv_bytes_per_token": kv,
                "by_seed": by_seed, "loss": {"value": float(np.mean(list(by_seed.values())))}}

    return [row("mfa a", 100, 3.1), row("mfa b", 400, 3.0), row("mla", 300, 3.05)]


ATTENTIONS = {"mfa a": "mfa", "mfa b": "mfa", "mla": "mla"}


def test_halfway_in_loss_is_halfway_in_log_kv():
    [row] = kv_at_equal_loss(cell(np.random.default_rng(0), 3, noise=0), ATTENTIONS)
    assert row["kv_bytes_needed"] == pytest.approx({"value": 200, "low": 200, "high": 200})
    assert row["ratio"]["value"] == pytest.approx(2 / 3) and (row["attention"], row["variant"]) == ("mfa", "mla")


def test_the_interval_holds_the_truth_and_one_seed_has_none():
    generator = np.random.default_rng(1)
    rows = [kv_at_equal_loss(cell(generator, 3, noise=0.003), ATTENTIONS)[0]["kv_bytes_needed"] for _ in range(200)]
    assert 0.85 < np.mean([row["low"] <= 200 <= row["high"] for row in rows]) <= 1
    [single] = kv_at_equal_loss(cell(generator, 1, noise=0.003), ATTENTIONS)
    assert single["kv_bytes_needed"]["low"] is None and single["kv_bytes_needed"]["value"] > 0
