"""The comparison as a workspace in W&B, as code: losses first, over tokens and FLOPs, on logarithmic axes.

Runs are grouped by attention, size and KV cache: a curve is the mean of the seeds, with their range. Below, the
held-out loss again by one of the three alone, what it costs, and how the runs fare.

Needs the `wandb` extra (wandb-workspaces), and an account to be saved to. Every number it shows is one that a run logs
(docs/wandb.md); the runs themselves are untouched.
"""

from mfa_train.config import TrackingConfig
from mfa_train.errors import ConfigError, TrackingError
from mfa_train.words import first_line

NAME = "Attention against its KV cache"
GROUPS = {"attention": "attention.name", "size": "model.name", "KV cache": "plan.kv_cache.bytes_per_token"}
"""What runs are grouped by, and the keys of a run's config that tell it."""
LOSSES = {
    "held-out loss": "val/loss",
    "training loss": "train/loss",
    "held-out bits per byte": "val/bits_per_byte",
}
AXES = ("tokens", "flops")
COSTS = {
    "KV bytes per token": "kv_bytes_per_token",
    "training FLOPs": "flops",
    "parameters": "params",
}
HEALTH = ("tokens_per_second", "mfu", "grad_norm", "lr", "skipped_steps", "checkpoint/blocking_seconds")
MOST_CURVES = 100


def dashboard(tracking: TrackingConfig):
    """The workspace (`wandb_workspaces.workspaces.Workspace`) of the tracking project, of one group where that is set;
    not saved. Raises ConfigError where wandb-workspaces isn't installed or no account is named."""
    try:
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise ConfigError("wandb-workspaces is not installed: type pip install -e '.[wandb]'") from None
    if tracking.entity is None:
        raise ConfigError("tracking.entity=null: whose workspace? type tracking.entity=YOUR-NAME-OR-TEAM")
    return workspaces.Workspace(
        name=NAME,
        entity=tracking.entity,
        project=tracking.project,
        sections=[
            workspaces.Section(name=name, panels=panels, is_open=True)
            for name, panels in (
                ("Loss", _losses()),
                (f"Held-out loss by {', '.join(GROUPS)}", _losses_by_one_thing()),
                ("What it costs", _costs()),
                ("How it runs", [_curve(metric, metric, "tokens") for metric in HEALTH]),
            )
        ],
        settings=workspaces.WorkspaceSettings(x_axis="tokens", max_runs=MOST_CURVES),
        runset_settings=workspaces.RunsetSettings(
            groupby=[workspaces.Config(key) for key in GROUPS.values()],
            filters=[workspaces.Metric("group") == tracking.group] if tracking.group else [],
        ),
    )


def _losses() -> list:
    """A curve of each attention, size and KV cache, as the runs are grouped."""
    return [
        _curve(f"{title} over {x}", metric, x, log_x=True, log_y=True) for title, metric in LOSSES.items() for x in AXES
    ]


def _losses_by_one_thing() -> list:
    """A curve of each attention, of each size, of each KV cache."""
    return [
        _curve(f"held-out loss over {x}, by {what}", "val/loss", x, by=key, log_x=True, log_y=True)
        for what, key in GROUPS.items()
        for x in AXES
    ]


def _costs() -> list:
    """A point of each run, and a bar of each attention and KV cache."""
    import wandb_workspaces.reports.v2 as panels

    points = [
        panels.ScatterPlot(
            title=f"held-out loss against {what}",
            x=panels.SummaryMetric(key),
            y=panels.SummaryMetric("val_loss"),
            log_x=True,
            log_y=True,
        )
        for what, key in COSTS.items()
    ]
    bars = [
        panels.BarPlot(
            title=f"held-out loss by {what}", metrics=["val/loss"], groupby=panels.Config(key), groupby_aggfunc="mean"
        )
        for what, key in GROUPS.items()
    ]
    return [*points, *bars]


def _curve(title: str, metric: str, x: str, by: str | None = None, **axes: bool):
    """A panel with the mean and range of each group: of the runs' own groups, or of those `by` one key of their
    configs."""
    import wandb_workspaces.reports.v2 as panels

    groupby = None if by is None else panels.Config(by)
    return panels.LinePlot(
        title=title, x=x, y=[metric], groupby=groupby, groupby_aggfunc="mean", groupby_rangefunc="minmax", **axes
    )


def spec(workspace) -> str:
    """What `save` would save, as JSON."""
    return workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=2)


def save(workspace) -> str:
    """Saves the workspace as a view of the project and gives its address. Raises TrackingError where W&B refuses or
    can't be reached."""
    try:
        return workspace.save().url
    except Exception as error:  # W&B's own failures have no common type
        raise TrackingError(
            f"W&B: {first_line(error)}: is this machine logged in (wandb login), and may it write to tracking.entity?"
        ) from error
