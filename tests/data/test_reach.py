"""Corpora in object storage: an S3 server on loopback, with credentials that are checked."""

import boto3
import pytest
import requests
import s3fs
from moto.server import ThreadedMotoServer

from mfa_train.data.preparing.sources.files import Files
from mfa_train.errors import ConfigError, DataError
from tests.data.corpora import digests, prepared, random_texts, write


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """s3://texts with two files, the environment's credentials good for it."""
    environment = {"AWS_ACCESS_KEY_ID": "good", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_ENDPOINT_URL": server,
                   "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/dev/null",
                   "AWS_EC2_METADATA_DISABLED": "true"}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    requests.post(f"{server}/moto-api/reset")
    s3fs.S3FileSystem.clear_instance_cache()
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="texts")
    for number, name in enumerate(("a.jsonl.zst", "b.parquet")):
        write(tmp_path / "local", name, random_texts(100, number))
        s3.upload_file(str(tmp_path / "local" / name), "texts", name)
    yield tmp_path / "local"
    s3fs.S3FileSystem.clear_instance_cache()


def test_object_storage_gives_the_bytes_of_local_files(bucket, tmp_path):
    corpora = [prepared("data=files", f"data_dir={tmp_path / name}", f"data.files=['{place}/*']", "data.vocab_size=600",
                        "data.shard_bytes=40000")
               for name, place in (("remote", "s3://texts"), ("here", str(bucket)))]
    remote, here = (digests(corpus.path) for corpus in corpora)
    assert len(here) > 8 and all(remote[name] == here[name] for name in here if name != "manifest.json")


@pytest.mark.parametrize("pattern, told", [
    ("s3://texts/*.json", "no such file, or no such bucket"),
    ("s3://texts/c.jsonl", "no such file, or no such bucket"),
    ("s3://nobody/*", "no such file, or no such bucket"),
    ("http://127.0.0.1:9/a.jsonl", "no such file|cannot be"),
])
def test_what_is_not_there_is_told(bucket, pattern, told):
    with pytest.raises(ConfigError, match=f"data.files={pattern.replace('*', '.')}: ({told})"):
        Files([pattern], "text")


def test_wrong_credentials_are_told_without_them(bucket, server, monkeypatch):
    source = Files(["s3://texts/*"], "text")
    requests.post(f"{server}/moto-api/reset-auth", data="0")  # from now on credentials are checked
    try:
        attempts = [(lambda: list(source.documents()), DataError),
                    (lambda: Files(["s3://texts/*"], "text"), ConfigError)]
        for attempt, error_type in attempts:
            s3fs.S3FileSystem.clear_instance_cache()
            with pytest.raises(error_type, match="s3://texts/.*access denied .*belong in the environment") as error:
                attempt()
            assert "hunter2" not in str(error.value) and "\n" not in str(error.value)
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(key)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(ConfigError, match="data.files=s3://texts/.: "):
            Files(["s3://texts/*"], "text")
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data="inf")
