"""Corpora in object storage: an S3 server on loopback, with credentials that are checked."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
import requests
import s3fs
from moto.server import ThreadedMotoServer

from mfa_train import config as configs
from mfa_train.data import reach
from mfa_train.data.corpora import open_all
from mfa_train.data.preparing.sources.files import Files
from mfa_train.errors import ConfigError, DataError, UserError
from tests.data.corpora import digests, lines, prepared, random_texts, write


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """s3://texts with two files, the environment's credentials good for it."""
    environment = {
        "AWS_ACCESS_KEY_ID": "good",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_ENDPOINT_URL": server,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
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
    corpora = [
        prepared(
            "data=files",
            f"data_dir={tmp_path / name}",
            f"data.files=['{place}/*']",
            "data.vocab_size=600",
            "data.shard_bytes=40000",
        )
        for name, place in (("remote", "s3://texts"), ("here", str(bucket)))
    ]
    remote, here = (digests(corpus.path) for corpus in corpora)
    assert len(here) > 8 and all(remote[name] == here[name] for name in here if name != "manifest.json")


@pytest.mark.parametrize("name", ["c.jsonl", "c.json", "c.txt", "c"])
def test_unpacked_json_lines_are_read_line_by_line_from_a_bucket(name, bucket, tmp_path):
    texts = random_texts(50, 3)
    boto3.client("s3").put_object(Bucket="texts", Key=f"more/{name}", Body=lines(texts))
    assert [document.text for document in Files([f"s3://texts/more/{name}"], "text").documents()] == texts
    with pytest.raises(
        ConfigError, match=r"data.files=s3://texts/more: a folder; type data.files='\[s3://texts/more/\*\*/\*\]'"
    ):
        Files(["s3://texts/more"], "text")


class _Pages(BaseHTTPRequestHandler):
    """The files of the server's folder, whatever the query; some only as a stream of unknown length; or an answer that
    never comes."""

    def do_GET(self):
        if "hang" in self.path:
            return self.server.wait.wait(30)
        file = self.server.folder / self.path.split("?")[0].split("/")[-1]
        if not file.is_file():
            return self.send_error(404)
        content = file.read_bytes()
        self.send_response(200)
        if "stream" not in self.path:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
        return None

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def pages(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    server.folder, server.wait = tmp_path, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.wait.set()
    server.shutdown()


@pytest.mark.parametrize(
    "name",
    [
        "p.jsonl",
        "p.jsonl?download=true",
        "p.jsonl.gz?download=true&x=a.txt",
        "p",
        "p.jsonl?stream",
        "p.jsonl.gz?stream",
        "p.parquet?a=b",
    ],
)
def test_a_url_is_what_it_holds_whatever_its_query(name, pages, tmp_path):
    texts = random_texts(50, 3)
    file = name.split("?")[0]
    write(tmp_path, file, texts)
    assert [document.text for document in Files([f"{pages}/{name}"], "text").documents()] == texts


def test_a_server_that_never_answers_is_given_up(pages, monkeypatch):
    monkeypatch.setattr(reach, "ANSWER_SECONDS", 0.5)
    start = time.monotonic()
    for url in (f"{pages}/hang.jsonl", f"{pages}/hang/*.jsonl"):
        with pytest.raises(ConfigError, match="no answer for 0 seconds"):
            Files([url], "text")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "url, told",
    [
        ("hf://x", "cannot be read as a path or URL"),
        ("s3://", "names no file"),
        ("s3:///", "names no file"),
        ("http://", "names no file"),
        ("ftp://", "names no file"),
        ("://", "names no file"),
        ("http://127.0.0.1:9/a b", "cannot be read .Cannot connect"),
        ("ftp://127.0.0.1:9/x", "Connection refused"),
        ("http://[::1", "cannot be read"),
        ("http://127.0.0.1:99999/x", "cannot be read as a path or URL"),
        ("reference://x", "cannot be read"),
        ("memory://x", "no such file"),
        ("nosuch://x", "Protocol not known"),
        ("simplecache::http://127.0.0.1:9/x", "no such file"),
        ("http://nosuch.invalid/x", "cannot be read"),
        (" ", "an empty name"),
    ],
)
def test_an_odd_url_is_told_in_one_line_and_at_once(url, told):
    start = time.monotonic()
    with pytest.raises(ConfigError, match=told) as error:
        Files([url], "text")
    with pytest.raises(UserError) as other:
        open_all(configs.load(["data=prepared", f"data.path='{url}'"]).data)
    assert "\n" not in str(error.value) + str(other.value) and time.monotonic() - start < 10


@pytest.mark.parametrize(
    "pattern, told",
    [
        ("s3://texts/*.json", "no such file, or no such bucket"),
        ("s3://texts/c.jsonl", "no such file, or no such bucket"),
        ("s3://nobody/*", "no such file, or no such bucket"),
        ("http://127.0.0.1:9/a.jsonl", "no such file|cannot be"),
    ],
)
def test_what_is_not_there_is_told(bucket, pattern, told):
    with pytest.raises(ConfigError, match=f"data.files={pattern.replace('*', '.')}: ({told})"):
        Files([pattern], "text")


def test_wrong_credentials_are_told_without_them(bucket, server, monkeypatch):
    source = Files(["s3://texts/*"], "text")
    requests.post(f"{server}/moto-api/reset-auth", data="0")  # from now on credentials are checked
    try:
        attempts = [
            (lambda: list(source.documents()), DataError),
            (lambda: Files(["s3://texts/*"], "text"), ConfigError),
        ]
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
