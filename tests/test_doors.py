"""What a person gets to see at every door: one line for what can be mended, and nothing that takes hold of the
terminal."""

import errno
import io
import shutil
import sys

import pytest

from mfa_train import cli
from mfa_train.config import compose
from mfa_train.doors import report
from mfa_train.errors import ConfigError
from mfa_train.tracking.terminal import ProgressBar, say, say_text
from tests.conftest import ROOT


def raising(error: BaseException):
    def main():
        raise error

    return main


@pytest.fixture
def streams(monkeypatch):
    """`streams(encoding)` makes standard output and error such files; gives what was written to them so far, as a
    function."""

    def make(encoding: str):
        made = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
        for name, stream in zip(("stdout", "stderr"), made):
            monkeypatch.setattr(sys, name, stream)

        def written() -> list[str]:
            for stream in made:
                stream.flush()
            return [stream.buffer.getvalue().decode(encoding) for stream in made]

        return written

    return make


@pytest.mark.parametrize(
    "encoding, shown", [("ascii", r"\u6f22\xe9"), ("latin-1", r"\u6f22é"), ("utf-8", "漢é"), ("cp1252", r"\u6f22é")]
)
def test_what_a_terminal_cannot_show_stops_nothing(encoding, shown, streams):
    written = streams(encoding)

    def main():
        say("漢é")
        bar = ProgressBar(3)
        bar.advance(2)
        bar.close()
        raise ConfigError("name=漢é")

    assert report(main) == 2
    out, err = written()
    assert out == f"{shown}\n" and err.endswith(f"error: name={shown}\n") and "2/3" in err


def test_control_characters_of_names_and_values_are_shown_and_not_obeyed(streams, capsys):
    assert report(raising(ConfigError("name=a\x1b[31m\r\nerror: \u202eb\udcff\x9b\t: no"))) == 2
    assert capsys.readouterr().err == "error: name=a\\x1b[31m\\x0d\\nerror: \\u202eb\\udcff\\x9b\\t: no\n".replace(
        "\\x0d", "\\r"
    )
    say("a\x1b]0;title\x07\tb\nc")
    assert capsys.readouterr().out == "a\\x1b]0;title\\x07\tb\nc\n"
    say_text("made\x1b[2J\r\n")  # no terminal: exactly
    assert capsys.readouterr().out == "made\x1b[2J\r\n\n"
    assert report(raising(ConfigError("name=" + "x" * 10**6 + ": no"))) == 2
    assert capsys.readouterr().err == f"error: name={'x' * 75}… (1,000,006 characters) no\n"
    assert report(raising(ConfigError("x " * 10**5))) == 2
    assert len(capsys.readouterr().err) < 2100


@pytest.mark.parametrize(
    "error, told",
    [
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), "error: runs/x: Permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", b"/a\xff"), "error: /a\\udcff: Is a directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "xx"), "error: xx: File name too long"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "runs/a/x"),
            "error: runs/a/x: No such file or directory",
        ),
        (MemoryError("Unable to allocate 7 TiB"), "error: not enough memory (Unable to allocate 7 TiB)"),
    ],
)
def test_what_a_machine_refuses_is_told_in_one_line(error, told, capsys):
    assert report(raising(error)) == 1
    assert capsys.readouterr().err == f"{told}\n"


@pytest.mark.parametrize(
    "bug", [KeyError("x"), ValueError("x"), RecursionError("x"), OSError("odd"), FileNotFoundError("no file named")]
)
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)):
        report(raising(bug))


def test_status_looks_where_train_py_would_put_runs_and_needs_no_habits_where_a_folder_is_typed(
    tmp_path, monkeypatch, capsys
):
    def status(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["mfa-train", "status", *words])
        cli.main()
        told = capsys.readouterr()
        return told.out + told.err

    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("local"))
    monkeypatch.setattr(compose, "CONFIG_DIR", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "local").mkdir()
    habits = tmp_path / "configs" / "local" / "default.yaml"
    habits.write_text("# @package _global_\nruns_dir: elsewhere\n")
    (tmp_path / "elsewhere" / "mine" / "launch").mkdir(parents=True)
    (tmp_path / "a=b" / "odd" / "launch").mkdir(parents=True)
    assert "mine" in status()
    assert "odd" in status("runs_dir=a=b") and "odd" in status("a=b")
    assert "error: nowhere: no such folder" in status("nowhere")
    assert "error: elsewhere: expected RUNS_DIR alone" in status("elsewhere", "a=b")
    habits.write_text("runs_dir: [a\n")
    assert "mine" in status("elsewhere")
    assert status().startswith("error: configs/local/default.yaml, line ")


def test_an_unknown_option_or_command_is_told_in_one_line(monkeypatch, capsys):
    for words in (["nope"], ["status", "--nope"], ["plan", "--\x1b[31m"], []):
        monkeypatch.setattr(sys, "argv", ["mfa-train", *words])
        assert cli.main() == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ") and told.count("\n") == 1 and "\x1b" not in told


def test_control_characters_of_the_names_of_files_are_shown_by_prepare_and_by_compare(tmp_path, capsys, monkeypatch):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "\x1b[31mred.json").write_text(
        "".join(f'{{"text": "some text, {number}"}}\n' for number in range(200))
    )
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "mfa-train",
            "prepare",
            "data=files",
            f"data.files=[{tmp_path}/c/*]",
            f"data_dir={tmp_path}",
            f"data.tokenizer={ROOT}/tests/first_round/corpus/tokenizer.model",
        ],
    )
    assert cli.main() == 0
    monkeypatch.setattr(
        sys,
        "argv",
        ["mfa-train", "compare", f"{ROOT}/tests/first_round/runs", "tracking=none", "--out", f"{tmp_path}/\x1b[32mout"],
    )
    told = capsys.readouterr().out
    assert cli.main() in (0, 2)  # 2: refused, as no name of a folder here
    told += "".join(capsys.readouterr())
    assert r"/\x1b[31mred.json is JSON lines" in told and r"\x1b[32mout" in told and "\x1b" not in told
