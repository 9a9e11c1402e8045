"""The comparison as a workspace in W&B, as far as it goes without an account."""

import json

import pytest

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.tracking.dashboard import dashboard, spec

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")


def test_what_would_be_saved_shows_metrics_that_runs_log_grouped_by_attention():
    told = json.dumps(
        json.loads(spec(dashboard(configs.load(["tracking.entity=me", "tracking.group=nano-attention"]).tracking)))
    )
    for what in (
        "val/loss",
        "train/loss",
        "kv_bytes_per_token",
        "attention.value.name",
        "nano-attention",
        '"tokens"',
        '"flops"',
    ):
        assert what in told


def test_without_an_entity_it_is_told_what_to_type():
    with pytest.raises(ConfigError, match="tracking.entity=null: whose workspace"):
        dashboard(configs.load([]).tracking)
