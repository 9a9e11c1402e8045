"""Whatever lies in a run's folder, every command that reads it ends with its words: status 0, or one readable line."""

import contextlib
import io
import json
import random
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mfa_train import cli
from mfa_train import config as configs
from mfa_train.errors import UserError
from mfa_train.training.resuming.resume_point import find_resume_point
from mfa_train.training.run_folder.folder import RunFolder

FILES = Path(__file__).parent / "first_round"
ODD = [
    None,
    True,
    -1,
    0,
    2**64,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\x1b[31mred",
    "\ud800",
    "x" * 10_000,
    "${oc.env:HOME}",
    [],
    [1],
    {},
    {"a": {"b": 1}},
    "2026-11-28",
    "../../etc",
]
RUN = FILES / "runs" / "mfa"
NAMES = sorted(path.relative_to(RUN).as_posix() for path in RUN.rglob("*") if path.is_file())


def _places(value, path=()):
    """Of every value in a tree."""
    yield path
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(below, (*path, key))


def _with(tree, path, value):
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = _with(copy[path[0]], path[1:], value)
    return copy


def spoilt(content: bytes, name: str, dice: random.Random) -> bytes | None:
    """The file with one thing wrong; None: it is gone."""
    kind = dice.choice(["gone", "empty", "cut", "flipped", "doubled", "zeros", "binary", "value", "value", "value"])
    if kind == "value" and name.endswith((".json", ".jsonl")):
        lines = content.decode().splitlines() if name.endswith("l") else [content.decode()]
        number = dice.randrange(len(lines))
        tree = json.loads(lines[number])
        lines[number] = json.dumps(_with(tree, dice.choice(list(_places(tree))), dice.choice(ODD)))
        return ("\n".join(lines) + "\n").encode()
    if kind == "value" and name.endswith(".yaml"):
        lines = content.decode().splitlines()
        number = dice.randrange(len(lines))
        lines[number] = f"{lines[number].split(':')[0]}: {json.dumps(dice.choice(ODD))}"
        return "\n".join(lines).encode()
    if kind == "gone":
        return None
    at = dice.randrange(len(content))
    return {
        "empty": b"",
        "cut": content[:at],
        "doubled": content + content,
        "zeros": content[:at] + b"\0" * 64 + content[at:],
        "binary": dice.randbytes(300),
    }.get(kind, content[:at] + bytes([content[at] ^ 1 << dice.randrange(8)]) + content[at + 1 :])


def door(*words: object) -> tuple[int, str]:
    """The exit status of `mfa-train WORDS` and what it said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mfa-train", *map(str, words)])
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            return cli.main(), out.getvalue() + err.getvalue()


def spoilt_run(folder: Path, name: str, number: int) -> Path:
    """A copy of the runs in `folder`, with one file of one of them spoilt."""
    shutil.copytree(FILES, folder, dirs_exist_ok=True)
    run = folder / "runs" / "mfa"
    content = spoilt((run / name).read_bytes(), name, random.Random(number))
    (run / name).unlink() if content is None else (run / name).write_bytes(content)
    return run


def anything_wrong(few: int, many: int):
    """`name` of a file, `number` of what is wrong with it; the same ones each time. `few` such, `many` of make
    test-long."""

    def decorated(test):
        def of(examples, tmp_path_factory):
            quiet = settings(
                max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
            )
            wrong = given(name=st.sampled_from(NAMES), number=st.integers(0, 2**32))
            quiet(wrong(lambda name, number: test(tmp_path_factory, name, number)))()

        return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.long)])(of)

    return decorated


@anything_wrong(100, 1000)
def test_a_start_of_a_run_with_anything_wrong_in_one_file_goes_on_or_says_why_not(tmp_path_factory, name, number):
    run = spoilt_run(tmp_path_factory.mktemp("spoilt"), name, number)
    with contextlib.suppress(UserError):
        resumed(run)
    status, said = door("status", run.parent)
    assert status == 0 and "gqa" in said
    shutil.rmtree(run.parent.parent)


@anything_wrong(5, 50)
def test_a_run_with_anything_wrong_in_one_file_ends_no_command_in_a_traceback(tmp_path_factory, name, number):
    run = spoilt_run(tmp_path_factory.mktemp("spoilt"), name, number)
    for words in (
        ["generate", run, "sample.max_new_tokens=2"],
        ["export", run],
        ["plan", "model=280k", f"plan.mfu={run}"],
    ):
        status, said = door(*words)
        assert status in (0, 1, 2), (words, said)
        assert status == 0 or said.strip().splitlines()[-1].startswith("error: "), said
    status, said = door("compare", run.parent, "--out", run.parent.parent / "report", "tracking=none")
    assert status == 0 and "gqa" in said
    shutil.rmtree(run.parent.parent)


def resumed(run: Path) -> None:
    """As a start of the same run does before it builds anything."""
    config = configs.of_run(FILES / "runs" / "mfa")
    config.runs_dir = str(run.parent)
    folder = RunFolder(config)
    try:
        if folder.open() is None:
            whole = json.loads((FILES / "runs/mfa/checkpoints/step-00000008/manifest.json").read_text())["content"]
            find_resume_point(config, run, whole["data"], lambda line: None)
    finally:
        folder.lock.release()
