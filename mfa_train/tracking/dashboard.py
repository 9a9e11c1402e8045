"""The comparison as a workspace in W&B, as code: curves over tokens and FLOPs, one colour a run, grouped by attention.

Needs the `wandb` extra (wandb-workspaces), and an account to be saved to. Every number it shows is one that a run logs
(docs/wandb.md); the runs themselves are untouched.
"""

from mfa_train.config import TrackingConfig
from mfa_train.errors import ConfigError, TrackingError

NAME = "Attention against its KV cache"
GROUP_BY = "attention.name"
"""The key of a run's config that runs are grouped by."""


def dashboard(tracking: TrackingConfig):
    """The workspace (`wandb_workspaces.workspaces.Workspace`) of the tracking project, of one group where that is set;
    not saved. Raises ConfigError where wandb-workspaces isn't installed or no account is named."""
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise ConfigError("wandb-workspaces is not installed: type pip install -e '.[wandb]'") from None
    if tracking.entity is None:
        raise ConfigError("tracking.entity=null: whose workspace? type tracking.entity=YOUR-NAME-OR-TEAM")
    group = panels.Config(GROUP_BY)

    def line(title: str, metric: str, x: str, **options):
        return panels.LinePlot(
            title=title, x=x, y=[metric], groupby=group, groupby_aggfunc="mean", groupby_rangefunc="minmax", **options
        )

    curves = [
        line(f"{title} over {x}", metric, x, log_x=x == "flops")
        for title, metric in (
            ("held-out loss", "val/loss"),
            ("training loss", "train/loss"),
            ("held-out bits per byte", "val/bits_per_byte"),
        )
        for x in ("tokens", "flops")
    ]
    cost = [
        panels.ScatterPlot(
            title="held-out loss against KV bytes per token",
            log_x=True,
            x=panels.SummaryMetric("kv_bytes_per_token"),
            y=panels.SummaryMetric("val_loss"),
        ),
        panels.ScatterPlot(
            title="held-out loss against training FLOPs",
            x=panels.SummaryMetric("flops"),
            y=panels.SummaryMetric("val_loss"),
            log_x=True,
        ),
        panels.BarPlot(title="held-out loss", metrics=["val/loss"], groupby=group, groupby_aggfunc="mean"),
    ]
    health = [
        line(metric, metric, "tokens")
        for metric in ("tokens_per_second", "mfu", "grad_norm", "lr", "skipped_steps", "checkpoint/blocking_seconds")
    ]
    filters = [workspaces.Metric("group") == tracking.group] if tracking.group else []
    return workspaces.Workspace(
        name=NAME,
        entity=tracking.entity,
        project=tracking.project,
        sections=[
            workspaces.Section(name=name, panels=shown, is_open=True)
            for name, shown in (("Loss", curves), ("What it costs", cost), ("How it runs", health))
        ],
        settings=workspaces.WorkspaceSettings(x_axis="tokens"),
        runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Config(GROUP_BY)], filters=filters),
    )


def spec(workspace) -> str:
    """What would be saved, as JSON."""
    return workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=2)


def save(workspace) -> str:
    """Saves it as a view of the project; its address. Raises TrackingError where W&B refuses or can't be reached."""
    try:
        return workspace.save().url
    except Exception as error:  # W&B's own failures have no common type
        raise TrackingError(
            f"W&B: {(str(error).strip().splitlines() or [type(error).__name__])[0]}: is this machine "
            "logged in (wandb login), and may it write to tracking.entity?"
        ) from error
