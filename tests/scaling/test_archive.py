"""A study in one file: what is found of it is what is found of its folders, and no archive of a stranger's does more
harm than a run of a stranger's."""

import contextlib
import io
import json
import os
import re
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from mfa_train import archive, cli
from mfa_train.errors import ConfigError, DataError, UserError
from mfa_train.launch.status import statuses
from mfa_train.scaling.compare import compare as compare_study
from mfa_train.scaling.study.gather import gather
from mfa_train.scaling.study.pack import pack
from tests.scaling.synthetic import VARIANTS, edit, write_ladder


def silent(*_) -> None:
    pass


def found(path: Path) -> dict:
    """What compare finds, but for where the runs lie."""
    result = compare_study(gather([path]))
    for run in result["runs"]:
        del run["source"]
    return json.loads(json.dumps(result))


@pytest.fixture
def study(few, tmp_path) -> Path:
    pack([few], tmp_path / "study.zip", silent)
    return tmp_path / "study.zip"


def test_an_archive_compares_as_its_folders_do(few, study, tmp_path):
    in_folders, there = found(few), sorted(tmp_path.rglob("*"))
    for run in list(few.iterdir()):
        for file in run.iterdir():
            file.unlink()
    assert found(study) == in_folders
    assert sorted(path for path in tmp_path.rglob("*") if path.parent.parent != few) == [
        path for path in there if path.parent.parent != few
    ]


def test_runs_in_an_archive_are_named_as_in_a_folder(few, study):
    assert {run.name for run in gather([study / "mfa-*"]).used} == {run.name for run in few.glob("mfa-*")}
    one = next(few.glob("mha-*")).name
    assert [run.source for run in gather([study / one, study]).used if run.name == one] == [str(study / one)]
    with pytest.raises(ConfigError, match="the archive holds no such run. Did you mean 'mha-"):
        gather([study / one.replace("mha", "mhx")])
    with pytest.raises(ConfigError, match="no such run"):
        gather([study / one / "config.yaml"])


def test_status_reads_an_archive(few, tmp_path):
    running, stopped, *_ = sorted(few.iterdir())
    (running / "summary.json").unlink()
    edit(stopped, status="stopped")
    told: list[str] = []
    pack([few], tmp_path / "study.zip", told.append)
    assert told == [f"notice: 1 packed as they stand, running or unfinished (no summary.json): {running.name}"]
    states = {one.name: one.state for one in statuses(tmp_path / "study.zip")}
    assert states.pop(running.name) == "silent" and states.pop(stopped.name) == "stopped"
    assert set(states.values()) == {"finished"}
    assert [one.name for one in statuses(tmp_path / "study.zip" / stopped.name)] == [stopped.name]


def test_the_same_runs_make_the_same_bytes_without_weights_logs_and_links(few, study, tmp_path):
    for run in sorted(few.iterdir(), reverse=True):
        copy = tmp_path / "copy" / run.name
        copy.mkdir(parents=True)
        for file in sorted(run.iterdir(), reverse=True):
            (copy / file.name).write_bytes(file.read_bytes())
            os.utime(copy / file.name, (0, 10**9))
        for extra in ("checkpoints/step-1/weights.safetensors", "wandb/run.wandb", "logs/rank-0.txt", "run.lock"):
            (copy / extra).parent.mkdir(parents=True, exist_ok=True)
            (copy / extra).write_text("not packed")
    (tmp_path / "copy" / "linked").mkdir()
    (tmp_path / "copy" / "linked" / "config.yaml").symlink_to(copy / "config.yaml")
    told: list[str] = []
    pack([tmp_path / "copy"], tmp_path / "again.zip", told.append)
    assert told == ["notice: left out: linked: config.yaml is a link"]
    assert (tmp_path / "again.zip").read_bytes() == study.read_bytes()
    pack([study], tmp_path / "again.zip", silent)
    assert (tmp_path / "again.zip").read_bytes() == study.read_bytes()
    assert {Path(name).name for name in zipfile.ZipFile(study).namelist()} == {
        "config.yaml",
        "plan.json",
        "summary.json",
        "metrics.jsonl",
    }


def test_pack_takes_the_place_of_nothing_but_an_archive_of_runs(few, study, tmp_path):
    run = next(few.iterdir())
    (tmp_path / "notes.zip").write_text("mine")
    with zipfile.ZipFile(tmp_path / "others.zip", "w") as other:
        other.writestr("thesis/chapter.tex", "text")
    (tmp_path / "link.zip").symlink_to(study)
    (tmp_path / "folder.zip").mkdir()
    write_ladder(tmp_path / "same", [VARIANTS[0]], {"4x192": 3.2e6}, (5e7,), (1,))
    (tmp_path / "empty").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for paths, out, why in (
        ([few], tmp_path / "study", r"ends in \.zip"),
        ([few], tmp_path / "notes.zip", "no archive that pack made"),
        ([few], tmp_path / "others.zip", "no archive that pack made"),
        ([few], tmp_path / "link.zip", "no archive that pack made"),
        ([few], tmp_path / "folder.zip", "no archive that pack made"),
        ([few], run / "study.zip", "lies in the run"),
        ([few, tmp_path / "same"], tmp_path / "both.zip", "two runs of one name"),
        ([few, tmp_path / "notes.zip"], tmp_path / "both.zip", "no archive of runs"),
        ([run / "config.yaml"], tmp_path / "both.zip", "a file"),
        ([tmp_path / "empty"], tmp_path / "both.zip", "no run to pack"),
        ([few], run / "config.yaml" / "study.zip", "cannot be looked into|Not a directory|lies in"),
    ):
        with pytest.raises(UserError, match=why):
            pack(paths, out, silent)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def forged(study: Path, change) -> None:
    """The archive with its entries as `change(name, data)` makes them: (ZipInfo, data) pairs."""
    with zipfile.ZipFile(study) as old:
        entries = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(study, "w", zipfile.ZIP_DEFLATED) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that stand there twice
        for name, data in entries:
            for entry, content in change(name, data):
                new.writestr(entry, content)


def beside(*names: str, mode: int = stat.S_IFREG):
    """Adds entries of these names once, in front of the others."""
    left = list(names)

    def change(name, data):
        while left:
            entry = zipfile.ZipInfo(left.pop(0))
            entry.external_attr = (mode | 0o644) << 16
            yield entry, b"x"
        yield name, data

    return change


def cut(study: Path, change) -> None:
    study.write_bytes(change(study.read_bytes()))


def larger_end(data: bytes) -> bytes:
    """With the end of a zip of 2^32 files before the usual one."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**32, 2**32, 2**40, 0)
    return data[:-22] + record + struct.pack("<4sLQL", b"PK\x06\x07", 0, len(data) - 22, 1) + data[-22:]


REFUSED = {
    "text": lambda study: cut(study, lambda data: b"N,D,loss\n1,2,3\n"),
    "nothing": lambda study: cut(study, lambda data: b""),
    "cut off": lambda study: cut(study, lambda data: data[:-100]),
    "half of it": lambda study: cut(study, lambda data: data[: len(data) // 2]),
    "bytes in front of a lost directory": lambda study: cut(study, lambda data: b"\0" * 100 + data[-22:]),
    "a directory that says it is larger": lambda study: cut(
        study, lambda data: data[:-10] + struct.pack("<L", 2**31) + data[-6:]
    ),
    "more files than the format counts": lambda study: cut(study, larger_end),
    "a name above it": lambda study: forged(study, beside("../evil/config.yaml")),
    "an absolute name": lambda study: forged(study, beside("/tmp/evil/config.yaml")),
    "a name of the other slash": lambda study: forged(study, beside("..\\evil\\config.yaml")),
    "an empty part": lambda study: forged(study, beside("evil//config.yaml")),
    "a name a thousand folders deep": lambda study: forged(study, beside("a/" * 1000 + "config.yaml")),
    "a link": lambda study: forged(study, beside("evil/config.yaml", mode=stat.S_IFLNK)),
    "a device": lambda study: forged(study, beside("evil/config.yaml", mode=stat.S_IFCHR)),
    "a file and a folder": lambda study: forged(study, beside("evil", "evil/config.yaml")),
    "a folder and a file": lambda study: forged(study, beside("evil/config.yaml", "evil")),
    "two files of one name": lambda study: forged(study, beside("evil/config.yaml", "evil/config.yaml")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_archive_that_is_none_of_ours_is_refused_in_a_line(name, study, tmp_path):
    REFUSED[name](study)
    there = sorted(tmp_path.rglob("*"))
    for read in (lambda: gather([study]), lambda: statuses(study), lambda: pack([study], tmp_path / "o.zip", silent)):
        with pytest.raises(DataError, match=r"study\.zip: no archive of runs") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == there and not Path("/tmp/evil").exists()


@pytest.mark.parametrize("limit, to", [("MOST_FILES", 5), ("LARGEST_DIRECTORY", 100), ("UNPACKED_BYTES", 1000)])
def test_an_archive_that_would_cost_more_than_runs_do_is_refused_unread(limit, to, study, monkeypatch):
    monkeypatch.setattr(archive, limit, to)
    monkeypatch.setattr(archive, "UNPACKED_SHARE", 1)
    with pytest.raises(DataError, match="expected at most"):
        gather([study])


def damage(study: Path, victim: str, change) -> None:
    """Changes what the directory and the file's own header say of `victim`, or its data."""
    data = bytearray(study.read_bytes())
    with zipfile.ZipFile(study) as old:
        entry = old.getinfo(victim)
    header, listed = entry.header_offset, data.rindex(b"PK\x01\x02", 0, data.rindex(victim.encode()))
    change(data, header, listed, header + 30 + len(victim), entry)
    study.write_bytes(data)


def flags(data, header, listed, begins, entry) -> None:
    data[header + 6] |= 1
    data[listed + 8] |= 1


def method(data, header, listed, begins, entry) -> None:
    data[header + 8] = data[listed + 10] = zipfile.ZIP_BZIP2


def flip(data, header, listed, begins, entry) -> None:
    data[begins + entry.compress_size // 2] ^= 0xFF


def larger(data, header, listed, begins, entry) -> None:
    data[listed + 24 : listed + 28] = struct.pack("<L", 5 * 2**20)


def smaller(data, header, listed, begins, entry) -> None:
    data[listed + 24 : listed + 28] = struct.pack("<L", 50)


def elsewhere(data, header, listed, begins, entry) -> None:
    data[listed + 42 : listed + 46] = struct.pack("<L", header + 7)


@pytest.mark.parametrize("change", [flags, method, flip, larger, smaller, elsewhere])
@pytest.mark.parametrize("file", ["config.yaml", "summary.json"])
def test_a_file_that_cannot_be_read_costs_its_run_alone(file, change, few, study):
    victim = next(few.glob("mfa-*")).name
    damage(study, f"{victim}/{file}", change)
    result = gather([study])
    assert [run.name for run in result.runs if run.excluded] == [victim]
    assert any(re.match(rf"left out: {victim}: cannot be read \(.*{file}", notice) for notice in result.notices)
    statuses(study)


def test_an_archive_in_an_archive_is_not_looked_into(study, tmp_path):
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(study, "runs/study.zip")
    with pytest.raises(DataError, match="holds no run"):
        gather([tmp_path / "outer.zip"])
    for inside in ("runs/study.zip", "runs/study.zip/mha-*", "../study.zip", "runs/../../study.zip"):
        with pytest.raises(ConfigError, match="no such run"):
            gather([tmp_path / "outer.zip" / inside])


def test_the_commands_end_to_end(few, tmp_path, monkeypatch):
    def typed(*words) -> str:
        monkeypatch.setattr("sys.argv", ["mfa-train", *map(str, words)])
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert cli.main() == 0
        return said.getvalue()

    out = tmp_path / "new" / "study.zip"
    assert "4 runs, 16 files" in typed("pack", few, "--out", out)
    assert "in place of one of 4 runs" in typed("pack", few, "--out", out)
    assert typed("status", out).count("finished") == 4
