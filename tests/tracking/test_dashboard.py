"""The comparison as a workspace in W&B, as far as it goes without an account."""

import json

import pytest

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.tracking.dashboard import dashboard, spec

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")


def test_what_would_be_saved_opens_with_losses_on_log_axes_by_attention_size_and_cache():
    workspace = dashboard(configs.load(["tracking.entity=me", "tracking.group=nano-attention"]).tracking)
    sections = json.loads(spec(workspace))["section"]["panelBankConfig"]["sections"]
    first, by_one = sections[0]["panels"], sections[1]["panels"]
    assert [panel["config"]["metrics"] for panel in first[:2]] == [["val/loss"], ["val/loss"]]
    assert [panel["config"]["xAxis"] for panel in first[:2]] == ["tokens", "flops"]
    assert all(panel["config"]["xLogScale"] and panel["config"]["yLogScale"] for panel in (*first, *by_one))
    groups = ["attention.value.name", "model.value.name", "plan.value.kv_cache.bytes_per_token"]
    assert [panel["config"]["groupBy"] for panel in by_one[::2]] == groups
    told = spec(workspace)
    for what in ("kv_bytes_per_token", "nano-attention", *groups):
        assert what in told


def test_without_an_entity_it_is_told_what_to_type():
    with pytest.raises(ConfigError, match="tracking.entity=null: whose workspace"):
        dashboard(configs.load([]).tracking)
