"""What of a URL may stand in a config, and that nothing else is taken or repeated."""

import time

import pytest

from mfa_train import config as configs
from mfa_train.config.secrets import hidden, may_hold_secret, require_no_secrets
from mfa_train.errors import ConfigError

SECRET = "hunter2"
REFUSED = [
    *(
        f"https://host/x.jsonl?{name}=hunter2"
        for name in (
            "pwd",
            "auth",
            "code",
            "key",
            "token",
            "access_token",
            "X-Amz-Signature",
            "sig",
            "Signature",
            "%74oken",
            "DOWNLOAD",
        )
    ),
    "https://host/x#token=hunter2",
    "https://host#hunter2",
    "https://host/x?hunter2",
    "https://host/x?download=hunter2",
    "https://host/x?download=true&token=hunter2",
    "https://host/x?download=true;token=hunter2",
    "https://host/x;token=hunter2",
    "https://host/x?ref=a%26token%3Dhunter2",
    "https://host/x%3Ftoken=hunter2",
    "https://host/x%23hunter2",
    "https://acc.blob.core.windows.net/c/x?sv=2020-08-04&se=2030&sig=hunter2",
    "https://storage.googleapis.com/b/x?GoogleAccessId=a&Expires=1&Signature=hunter2",
    "https://hunter2@host/x",
    "https://user:hunter2@host/x",
    "HTTPS://USER:hunter2@host",
    "https://user%3Ahunter2%40host/x",
    "https://user:hun ter2@host/hunter2",
    "https://:hunter2@[::1]/x",
    "https://host:hunter2/x",
    "s3://KEY:hunter2@bucket/x",
    "s3://KEY:hun/ter2hunter2@bucket/x",
    "abfs://hunter2@account.dfs.core.windows.net/x",
    "hf://datasets/o/n:hunter2@main/x",
    "user:hunter2@host/x",
    "//user:hunter2@host/x",
    "//hunter2@host/x",
    "https:user:hunter2@host",
    "https:/hunter2@host/x",
    "https:\\\\user:hunter2@host",
    "host/x?token=hunter2",
    "x.jsonl#token=hunter2",
    "simplecache::https://user:hunter2@host/x",
    "simplecache::https://host/x?token=hunter2",
    "zip://a.csv::s3://K:hunter2@b/x.zip",
    "https://host/https://user:hunter2@host/x",
    "see https://user:hunter2@host",
]
ALLOWED = [
    "https://host/x.jsonl",
    "https://host:8080/a%20b.jsonl?download=true",
    "https://host/x?raw",
    "http://[::1]:8000/x",
    "s3://b/x/*.jsonl",
    "s3://b/date=2024-01-01/x.parquet?versionId=L4kqtJlcpXroDTDmJ",
    "gs://b/x?generation=1700000000",
    "hf://datasets/o/n@main/x.parquet",
    "hf://datasets/o/n@refs%2Fpr%2F1/x.parquet",
    "simplecache::https://host/x.jsonl",
    "zip://*.csv::file:///tmp/x.zip",
    "data/part-?.jsonl",
    "p.jsonl?download=true",
    "data/web@2024/x.jsonl",
    "/tmp/#1.jsonl",
    "mfa@0.25",
    "24:00:00",
    "<|end#of|>",
    "it's $(x); 100%n",
]


@pytest.mark.parametrize("url", REFUSED)
def test_what_may_be_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="^data.files: ") as error:
        require_no_secrets({"data": {"files": ["a.jsonl", url]}})
    assert SECRET not in str(error.value) and "\n" not in str(error.value)
    assert SECRET not in hidden(f"error: data.files={url.replace(' ', '')}: no such file")


@pytest.mark.parametrize("url", ALLOWED)
def test_other_urls_paths_and_words_are_taken(url):
    assert may_hold_secret(url) is None


@pytest.mark.parametrize(
    "override",
    [
        "runs_dir={}",
        "data_dir={}",
        "data.cache_dir={}",
        "data.corpora={{a: {}}}",
        "data.weights={{{}: 1}}",
        "data.eos_token={}",
        "name={}",
        "tracking.entity={}",
        "plan.mfu={}",
        "cluster.shared=[{}]",
        "cluster.template={}",
        "resume={}",
        "attention.kernel={}",
        "+sweep.over.seed=[{}]",
        "training.steps={}",
    ],
)
def test_no_key_at_any_depth_takes_one(override):
    with pytest.raises(ConfigError) as error:
        configs.load([override.format("'s3://AK:hunter2@bucket/x'")])
    told = hidden(str(error.value))  # as a door tells it
    assert SECRET not in told and "not repeated here" in told
    assert configs.load(["sample.prompt='https://user:pw@host is how not to write it'"]).sample.prompt.startswith(
        "https://user:pw@"
    )


def test_what_is_told_on_the_terminal_keeps_all_but_the_secret():
    assert hidden("error: runs_dir=s3://b: expected x, not 'https://u:hunter2@h'; see https://docs.host/page.") == (
        "error: runs_dir=s3://b: expected x, not '(not repeated here)'; see https://docs.host/page."
    )
    start = time.monotonic()
    assert (
        may_hold_secret("a:" * 60_000) is None
        and hidden("x=" + ":" * 120_000)
        and may_hold_secret("?a" * 60_000) is None
    )
    assert time.monotonic() - start < 5
    assert (
        hidden("error: attention=https://u:hunter2@h: no such choice")
        == "error: attention=(not repeated here): no such choice"
    )
