"""Home folders, and keys that are folders of this machine."""

import os

import pytest

from mfa_train import config as configs
from mfa_train.errors import ConfigError


def test_home_folders_are_expanded_wherever_a_path_stands(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = configs.load(
        [
            "runs_dir='~/runs'",
            "data_dir='~/data'",
            "resume='~/runs/a'",
            "data.files=['~/x/*.jsonl','s3://b/~x']",
            "data.tokenizer='~/t.model'",
            "data.corpora={a: '~/a'}",
            "data.dataset='~/set'",
            "cluster.environment='~/env'",
            "cluster.hostfile='~/hosts'",
            "cluster.template='~/job'",
            "cluster.shared=['~']",
            "plan.mfu='~/runs/a'",
        ]
    )
    assert (config.runs_dir, config.data_dir, config.resume) == ("/home/me/runs", "/home/me/data", "/home/me/runs/a")
    assert (
        config.data.path.startswith("/home/me/data/python_stdlib-") and config.data.cache_dir == "/home/me/data/cache"
    )
    assert config.data.files == ["/home/me/x/*.jsonl", "s3://b/~x"] and config.data.corpora == {"a": "/home/me/a"}
    assert (config.data.tokenizer, config.data.dataset, config.plan.mfu) == (
        "/home/me/t.model",
        "/home/me/set",
        "/home/me/runs/a",
    )
    cluster = config.cluster
    assert [cluster.environment, cluster.hostfile, cluster.template, *cluster.shared] == [
        "/home/me/env",
        "/home/me/hosts",
        "/home/me/job",
        "/home/me",
    ]
    assert configs.load([f"runs_dir='~{os.environ.get('USER', 'root')}/runs'"]).runs_dir.endswith("/runs")


REFUSED = {
    "runs_dir='s3://bucket/runs'": "runs_dir=s3://bucket/runs: expected a folder of this machine",
    "runs_dir='file:///tmp/x'": "expected a folder of this machine",
    "runs_dir='simplecache::s3://b'": "expected a folder of this machine",
    "data_dir='gs://b/data'": "data_dir=gs://b/data: expected a folder",
    "data.cache_dir='s3://b/c'": "data.cache_dir=s3://b/c: expected a folder",
    "resume='hf://x'": "resume=hf://x: expected a checkpoint's or a run's folder",
    "cluster.environment='https://host/env'": "expected a file of this machine",
    "plan.mfu='s3://b/run'": "expected a share as 0.4, or a run's folder",
    "cluster.shared=['s3://b']": "cluster.shared=s3://b: expected a folder",
    "runs_dir='~nobody-of-that-name/x'": "no home folder of ~nobody-of-that-name is known here",
    "runs_dir=''": "runs_dir=: expected a path",
    "data_dir=''": "data_dir=: expected a path",
    f"runs_dir={'x' * 300}": "is too long",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_is_no_folder_of_this_machine_is_refused_in_one_line(typed):
    with pytest.raises(ConfigError) as error:
        configs.load([typed])
    assert REFUSED[typed] in str(error.value) and "\n" not in str(error.value)
