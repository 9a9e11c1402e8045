"""W&B itself, offline: what its variables and its refusals make of a run."""

import pytest
import wandb as library

from mfa_train.config import TrackingConfig
from mfa_train.tracking.wandb_run import ONE_RUN, WandbRun, forget_run

VARIABLES = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_BASE_URL", *ONE_RUN)


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """`logged(wandb, **environment)`: the run's identity and what was said."""

    def log(wandb: str, **environment: str) -> tuple[dict | None, str]:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in (
            {"WANDB_CONFIG_DIR": str(tmp_path / "settings"), "NETRC": str(tmp_path / "none")} | environment
        ).items():
            monkeypatch.setenv(name, value)
        library.teardown()  # it reads the variables once a process
        said: list[str] = []
        run = WandbRun(TrackingConfig(wandb, "p", None, None), "n", tmp_path, {}, say=said.append)
        identity = run.identity()
        run.finish({"status": "finished"})
        return identity, "\n".join(said)

    return log


@pytest.mark.parametrize(
    "environment, told",
    [
        ({"WANDB_API_KEY": "short"}, "API key must have 40"),
        ({"WANDB_API_KEY": " " + "x" * 40}, "cannot start or end with whitespace"),
        ({"WANDB_MODE": "sometimes"}, "mode"),
        ({"WANDB_RUN_ID": "a/b"}, "Run ID cannot contain"),
    ],
)
def test_a_variable_that_wandb_refuses_leaves_the_run_offline(logged, environment, told, tmp_path):
    identity, said = logged("auto", **environment)
    assert identity and identity["url"] is None and list((tmp_path / "wandb").glob(f"offline-run-*-{identity['id']}"))
    assert (
        said.startswith("W&B can't be logged to (")
        and told in said.splitlines()[0]
        and "logging offline" in said.splitlines()[0]
    )


def test_wandbs_own_mode_holds_where_ours_is_auto(logged, tmp_path):
    for off in (
        {"WANDB_MODE": "disabled"},
        {"WANDB_DISABLED": "true"},
        {"WANDB_MODE": "DISABLED", "WANDB_API_KEY": "x" * 40},
    ):
        identity, said = logged("auto", **off)
        assert identity is None and said.startswith("W&B: off") and not (tmp_path / "wandb").exists()
    assert logged("auto", WANDB_MODE="dryrun", WANDB_API_KEY="x" * 40)[0]["url"] is None
    assert logged("offline", WANDB_MODE="disabled")[0]


def test_a_run_of_its_own_takes_no_other_runs_id_from_the_environment(logged, monkeypatch):
    assert logged("offline", WANDB_RUN_ID="the-one")[0]["id"] == "the-one"
    environment = dict.fromkeys(ONE_RUN, "the-one") | {"WANDB_PROJECT": "p"}
    forget_run(environment)
    assert environment == {"WANDB_PROJECT": "p"}
